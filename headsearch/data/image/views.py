"""Augmentation of whole batches on the device that trains: uint8 images in, normalised views out.

Every number is drawn on the device from the caller's generator, for each image of each view, and
no step waits for the device or depends on the values of a tensor: the code also runs on `meta`.

Suffixes: B images of a batch, N views of all images (count × B), 3 colours, H and W (or S) pixels,
P random parameters, K taps of a kernel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from headsearch.errors import UserError

# ImageNet's mean and standard deviation, RGB in [0, 1]: what most of timm's weights expect, so
# that a pretrained base can take part unchanged. Close enough to any set of photographs.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, rounded as in torchvision


@dataclass(frozen=True)
class ViewSettings:
    """What may happen to an image on its way to a view. Defaults: SimCLR's for small images.

    Chen et al. 2020 (arXiv 2002.05709), appendix A; jitter strengths as in BYOL (2006.07733).

    Attributes:
        crop_scale: smallest and largest area of a crop, as a share of the image.
        crop_ratio: smallest and largest width over height of a crop; must enclose 1.
        flip: probability of a horizontal flip.
        jitter: strengths of brightness, contrast, saturation (factors from 1 − x to 1 + x) and
            hue (turns from −x to x), applied in this order: the order, which some draw at random
            too, changes little and would cost a pass for each.
        jitter_probability: probability that an image's colours are jittered at all.
        grayscale: probability of losing all colour.
        blur: probability of a Gaussian blur. None: 0.5 from 64 pixels on, else 0, since a blur
            erases what a small image has.
        blur_sigma: smallest and largest standard deviation of the blur, in pixels.
        solarize: probability that bright pixels (0.5 and over) are inverted.
    """

    crop_scale: tuple[float, float] = (0.2, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jitter_probability: float = 0.8
    grayscale: float = 0.2
    blur: float | None = None
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip", "jitter_probability", "grayscale", "blur", "solarize"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"views: {name} is a probability in [0, 1], got {value}")
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise UserError(f"views: crop_scale needs 0 < low <= high <= 1, got {self.crop_scale}")
        if not 0 < self.crop_ratio[0] <= 1 <= self.crop_ratio[1]:
            raise UserError(f"views: crop_ratio needs low <= 1 <= high, got {self.crop_ratio}")
        if not (all(0 <= x <= 1 for x in self.jitter[:3]) and 0 <= self.jitter[3] <= 0.5):
            raise UserError(
                f"views: jitter needs strengths in [0, 1] and a hue in [0, 0.5], got {self.jitter}"
            )
        if not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise UserError(f"views: blur_sigma needs 0 < low <= high, got {self.blur_sigma}")


def normalize(images_B3HW: Tensor) -> Tensor:
    """Makes uint8 images (B, 3, H, W) what a base expects: float32, less `MEAN`, over `STD`."""
    assert images_B3HW.dtype == torch.uint8
    return _standardize(images_B3HW.float().div_(255))


def make_views(
    images_B3SS: Tensor,
    generator: torch.Generator | None,
    settings: ViewSettings,
    count: int = 2,
    part: tuple[int, int] = (0, 1),
) -> Tensor:
    """Draws `count` random views of every image.

    Args:
        images_B3SS: (B, 3, S, S) uint8.
        generator: of the images' device; moves on by one draw. None only on `meta`.
        settings: what may happen to an image.
        count: views of each image.
        part: (p, n) where these are the p-th of n equal parts of a batch: their views are those
            that they would have in the whole one.

    Returns:
        (count, B, 3, S, S) float32, normalised as by `normalize`.
    """
    assert images_B3SS.dtype == torch.uint8
    assert generator is not None or images_B3SS.is_meta
    batch, _, size, _ = images_B3SS.shape
    place, parts = part
    draws_PN = torch.rand(
        (len(_DRAWS), count * parts * batch), generator=generator, device=images_B3SS.device
    )
    draws_PN = draws_PN.view(-1, count, parts, batch)[:, :, place].flatten(1)
    draw = dict(zip(_DRAWS, draws_PN.unbind(0), strict=True))

    x_N3SS = images_B3SS.float().div_(255).repeat(count, 1, 1, 1)
    boxes_N4 = crop_boxes(
        draw["area"], draw["ratio"], draw["left"], draw["top"], settings.crop_scale,
        settings.crop_ratio,
    )  # fmt: skip
    x_N3SS = crop_and_resize(x_N3SS, boxes_N4, draw["flip"] < settings.flip)

    brightness, contrast, saturation, hue = settings.jitter
    jittered_N = draw["jitter"] < settings.jitter_probability
    if brightness:
        x_N3SS = adjust_brightness(x_N3SS, _factor(draw["brightness"], brightness, jittered_N))
    if contrast:
        x_N3SS = adjust_contrast(x_N3SS, _factor(draw["contrast"], contrast, jittered_N))
    if saturation:
        x_N3SS = adjust_saturation(x_N3SS, _factor(draw["saturation"], saturation, jittered_N))
    if hue:
        x_N3SS = adjust_hue(x_N3SS, (draw["hue"] * 2 - 1) * hue * jittered_N)
    if settings.grayscale:
        kept_N = (draw["grayscale"] >= settings.grayscale).float()
        x_N3SS = adjust_saturation(x_N3SS, kept_N)
    blur = (0.5 if size >= 64 else 0.0) if settings.blur is None else settings.blur
    if blur:
        low, high = settings.blur_sigma
        sigma_N = low + (high - low) * draw["sigma"]
        x_N3SS = gaussian_blur(x_N3SS, sigma_N, draw["blur"] < blur)
    if settings.solarize:
        x_N3SS = solarize(x_N3SS, draw["solarize"] < settings.solarize)
    return _standardize(x_N3SS).view(count, batch, 3, size, size)


_DRAWS = (
    "area", "ratio", "left", "top", "flip", "jitter", "brightness", "contrast", "saturation",
    "hue", "grayscale", "blur", "sigma", "solarize",
)  # fmt: skip
"""One uniform number each, always drawn: a setting never shifts another one's randomness."""


def _factor(draw_N: Tensor, strength: float, jittered_N: Tensor) -> Tensor:
    """Factors uniform in 1 ± strength, and 1 where an image is not jittered."""
    return 1 + (draw_N * 2 - 1) * strength * jittered_N


def crop_boxes(
    area_N: Tensor,
    ratio_N: Tensor,
    left_N: Tensor,
    top_N: Tensor,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Tensor:
    """Turns four uniform numbers in [0, 1) an image into crops of a square image.

    Areas are uniform in `scale`. Ratios are log-uniform in the part of `ratio` that a crop of
    that area can have inside the image, so that none has to be drawn again (Inception's crop
    rejects and redraws instead, which thins out large crops).

    Returns:
        (N, 4): left, top, width, height as shares of the image's side, all inside the image.
    """
    area_N = scale[0] + (scale[1] - scale[0]) * area_N
    # width² = area · ratio <= 1 and height² = area / ratio <= 1 bound the ratio on both sides.
    low_N = area_N.log().clamp(min=math.log(ratio[0]))
    high_N = area_N.log().neg().clamp(max=math.log(ratio[1]))
    half_log_ratio_N = (low_N + (high_N - low_N) * ratio_N) / 2
    side_N = area_N.sqrt()
    width_N = (side_N * half_log_ratio_N.exp()).clamp(max=1)  # 1 + rounding otherwise
    height_N = (side_N * half_log_ratio_N.neg().exp()).clamp(max=1)
    return torch.stack([left_N * (1 - width_N), top_N * (1 - height_N), width_N, height_N], dim=1)


def crop_and_resize(x_N3SS: Tensor, boxes_N4: Tensor, flipped_N: Tensor) -> Tensor:
    """Resizes crops to the whole image's size, bilinearly, and mirrors some left to right.

    A crop is never larger than its image, so this only enlarges and needs no antialiasing.

    Args:
        x_N3SS: (N, 3, S, S) float.
        boxes_N4: left, top, width, height as shares of the side; fractions of pixels count.
        flipped_N: bool.
    """
    left_N, top_N, width_N, height_N = boxes_N4.unbind(1)
    # grid_sample's coordinates run from −1 to 1 over the image; a negative scale mirrors.
    zero_N = torch.zeros_like(left_N)
    scale_x_N = torch.where(flipped_N, -width_N, width_N)
    theta_N6 = torch.stack(
        [scale_x_N, zero_N, 2 * left_N + width_N - 1, zero_N, height_N, 2 * top_N + height_N - 1],
        dim=1,
    )
    grid_NSS2 = F.affine_grid(theta_N6.view(-1, 2, 3), list(x_N3SS.shape), align_corners=False)
    return F.grid_sample(
        x_N3SS, grid_NSS2, mode="bilinear", padding_mode="border", align_corners=False
    )


def _luma(x_N3HW: Tensor) -> Tensor:
    red_N1HW, green_N1HW, blue_N1HW = torch.split(x_N3HW, 1, dim=1)
    return (red_N1HW * _LUMA[0]).add_(green_N1HW, alpha=_LUMA[1]).add_(blue_N1HW, alpha=_LUMA[2])


def adjust_brightness(x_N3HW: Tensor, factor_N: Tensor) -> Tensor:
    """Multiplies images in [0, 1] by their factors, clipped to [0, 1]."""
    return (x_N3HW * factor_N.view(-1, 1, 1, 1)).clamp_(0, 1)


def adjust_contrast(x_N3HW: Tensor, factor_N: Tensor) -> Tensor:
    """Scales the distance of each image from its mean luma, clipped to [0, 1]."""
    mean_N111 = _luma(x_N3HW).mean(dim=(2, 3), keepdim=True)
    return torch.lerp(mean_N111, x_N3HW, factor_N.view(-1, 1, 1, 1)).clamp_(0, 1)


def adjust_saturation(x_N3HW: Tensor, factor_N: Tensor) -> Tensor:
    """Scales the distance of each pixel from its luma, clipped to [0, 1]; 0 leaves grey."""
    return torch.lerp(_luma(x_N3HW), x_N3HW, factor_N.view(-1, 1, 1, 1)).clamp_(0, 1)


def adjust_hue(x_N3HW: Tensor, turn_N: Tensor) -> Tensor:
    """Turns the hue of images in [0, 1] by a share of the colour circle, in HSV coordinates."""
    value_N1HW = x_N3HW.amax(dim=1, keepdim=True)
    chroma_N1HW = value_N1HW - x_N3HW.amin(dim=1, keepdim=True)
    red, green, blue = torch.split(x_N3HW, 1, dim=1)
    # Hue in sixths of the circle. A grey pixel has none: its chroma of 0 makes any value right.
    divisor_N1HW = chroma_N1HW.clamp(min=1e-8)
    hue_N1HW = torch.where(
        value_N1HW == red,
        (green - blue) / divisor_N1HW,
        torch.where(
            value_N1HW == green,
            (blue - red) / divisor_N1HW + 2,
            (red - green) / divisor_N1HW + 4,
        ),
    )
    hue_N1HW += 6 * turn_N.view(-1, 1, 1, 1)
    # The inverse in closed form: channel = value − chroma · clip(min(k, 4 − k), 0, 1) with
    # k = (n + hue) mod 6 and n = 5, 3, 1 for red, green and blue.
    offset_131 = torch.arange(5, 0, -2, device=x_N3HW.device).view(1, 3, 1, 1)
    k_N3HW = (hue_N1HW + offset_131).remainder_(6)
    share_N3HW = torch.minimum(k_N3HW, 4 - k_N3HW).clamp_(0, 1)
    return torch.addcmul(value_N1HW, chroma_N1HW, share_N3HW, value=-1)


def gaussian_blur(x_N3HW: Tensor, sigma_N: Tensor, blurred_N: Tensor) -> Tensor:
    """Blurs some images, each with its own standard deviation in pixels; borders are mirrored.

    The kernel spans a tenth of the image, as in SimCLR.
    """
    size = x_N3HW.shape[-1]
    radius = max(1, int(size * 0.1) // 2)
    tap_K = torch.arange(-radius, radius + 1, device=x_N3HW.device, dtype=x_N3HW.dtype)
    kernel_NK = torch.softmax(-0.5 * (tap_K / sigma_N.view(-1, 1)) ** 2, dim=1)
    kernel_NK = torch.where(blurred_N.view(-1, 1), kernel_NK, (tap_K == 0).to(x_N3HW.dtype))
    weight_M1K = kernel_NK.repeat_interleave(3, dim=0).unsqueeze(1)  # M = N · 3 planes
    planes = weight_M1K.shape[0]
    x_1MHW = F.pad(x_N3HW, (radius,) * 4, mode="reflect").flatten(0, 1).unsqueeze(0)
    x_1MHW = F.conv2d(x_1MHW, weight_M1K.unsqueeze(2), groups=planes)
    x_1MHW = F.conv2d(x_1MHW, weight_M1K.unsqueeze(3), groups=planes)
    return x_1MHW.view_as(x_N3HW)


def solarize(x_N3HW: Tensor, solarized_N: Tensor) -> Tensor:
    """Inverts the pixel values of 0.5 and over of some images in [0, 1]."""
    inverted_N3HW = solarized_N.view(-1, 1, 1, 1) & (x_N3HW >= 0.5)
    return torch.where(inverted_N3HW, 1 - x_N3HW, x_N3HW)


def _standardize(x_N3HW: Tensor) -> Tensor:
    # Filled on the device: a tensor made from a Python list would be copied there and waited for.
    scale_131 = torch.cat([x_N3HW.new_full((1, 1, 1), 1 / std) for std in STD])
    shift_131 = torch.cat(
        [x_N3HW.new_full((1, 1, 1), -mean / std) for mean, std in zip(MEAN, STD, strict=True)]
    )
    return torch.addcmul(shift_131, x_N3HW, scale_131)
