"""Images with one cue removed: blurred, sharpened, shuffled, grey, with another image's texture.

Dimensions: B images, S their side in pixels. Images are uint8 (B, 3, S, S), in and out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

CUTOFF = 0.25
"""The frequency that parts low from high, as a share of the highest one (half of the sampling
rate): wavelengths above 8 pixels pass the low-pass filter."""
SHUFFLED = 4
"""Patches per side of an image that are shuffled."""


def low_pass(images: Tensor) -> Tensor:
    """Only what varies slowly: frequencies above `CUTOFF` are removed."""
    return _as_images(_filtered(images.float(), low=True))


def high_pass(images: Tensor) -> Tensor:
    """Only what varies fast, on a grey background: frequencies up to `CUTOFF` are removed."""
    return _as_images(_filtered(images.float(), low=False) + 127.5)


def shuffled_patches(images: Tensor) -> Tensor:
    """4 × 4 patches of an image in random order, the same for every image: shape without place."""
    side = images.shape[-1] // SHUFFLED * SHUFFLED
    whole = images[..., :side, :side].float()
    patches = F.unfold(whole, side // SHUFFLED, stride=side // SHUFFLED)
    order = torch.randperm(SHUFFLED**2, generator=torch.Generator().manual_seed(0))
    again = F.fold(
        patches[..., order.to(images.device)], side, side // SHUFFLED, stride=side // SHUFFLED
    )
    if side != images.shape[-1]:
        again = F.pad(again, (0, images.shape[-1] - side) * 2, mode="replicate")
    return _as_images(again)


def grey(images: Tensor) -> Tensor:
    """Without colour: every channel is the luma of ITU-R 601-2."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device)
    luma = (images.float() * weights[:, None, None]).sum(dim=1, keepdim=True)
    return _as_images(luma.expand_as(images))


def swapped_texture(images: Tensor) -> Tensor:
    """The amplitudes of the next image of the batch with the phases of this one.

    Phases hold where edges lie, amplitudes how much there is of each frequency and direction, which
    stands for texture and colour here (Piotrowski & Campbell 1982; Chen et al. 2021, arXiv
    2108.08487). It is no stylisation: shapes stay where they are.
    """
    spectrum = torch.fft.fft2(images.float())
    other = torch.roll(spectrum, 1, dims=0)
    mixed = torch.polar(other.abs(), spectrum.angle())
    return _as_images(torch.fft.ifft2(mixed).real)


CUES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "low-pass": low_pass,
    "high-pass": high_pass,
    "shuffled patches": shuffled_patches,
    "grey": grey,
    "swapped texture": swapped_texture,
}
"""What is done to the images by the name of the condition."""


def _filtered(images: Tensor, *, low: bool) -> Tensor:
    frequencies = torch.fft.fftfreq(images.shape[-1], device=images.device)
    radius = torch.hypot(frequencies[:, None], frequencies[None, :])
    kept = (radius <= CUTOFF / 2) if low else (radius > CUTOFF / 2)
    filtered: Tensor = torch.fft.ifft2(torch.fft.fft2(images) * kept).real
    return filtered


def _as_images(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)
