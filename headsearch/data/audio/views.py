"""Random views of log-mel maps on the training device, in the form of BYOL-A: see `AudioViews`.

Input is uint8 (see `LogMel`), output is normalised float32. All random numbers are drawn on the
device from the caller's generator, separately for each clip and view, and nothing waits for it.

Suffixes: B clips of a batch, N views of all clips (count × B), H mel bands, W time steps, P random
parameters.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from headsearch.config.audio_views import AudioViews
from headsearch.config.normalization import Normalization
from headsearch.data.audio.draws import each, gaussian, shuffled, span, uniform
from headsearch.data.audio.log_mel import RANGE_DB

_DRAWS = (
    "mixup", "time", "left", "frequency", "top", "start", "end", "noise", "time_mask",
    "time_start", "frequency_mask", "frequency_start",
)  # fmt: skip
"""The uniform numbers drawn for each view of each clip, used or not, as for images."""
LEVELS_TO_NEPER = RANGE_DB / 10 * math.log(10)
"""What a whole range of levels (0 to 1) is in the natural logarithm of the power."""


def make_clip_views(
    maps_B1HW: Tensor,
    generator: torch.Generator | None,
    settings: AudioViews,
    count: int,
    part: tuple[int, int],
    normalization: Normalization,
) -> Tensor:
    """Draws `count` random views of every log-mel map.

    Args:
        maps_B1HW: (B, 1, H, W) uint8.
        generator: a generator on the maps' device; None only on `meta`.
        settings: the augmentations.
        count: the number of views of each clip.
        part: (p, n) if the clips are the p-th of n equal parts of a batch. They get the same random
            numbers as in a call with the whole batch. Clips are mixed within their part.
        normalization: the mean and std of the result; its first channel is used.

    Returns:
        (count, B, 1, H, W) float32, normalised.
    """
    assert maps_B1HW.dtype == torch.uint8
    batch, _, height, width = maps_B1HW.shape
    draw = uniform(maps_B1HW, _DRAWS, generator, count, part)
    noise_N1HW = gaussian(maps_B1HW, generator, count, part)
    x_N1HW = maps_B1HW.float().div_(255)
    # Drawn last, since it alone depends on the number of parts.
    other_N1HW = shuffled(x_N1HW, generator, count)
    x_N1HW = x_N1HW.repeat(count, 1, 1, 1)
    x_N1HW = mixed(x_N1HW, other_N1HW, settings.mixup * draw["mixup"])
    mean, std = normalization.mean[0], normalization.std[0]
    x_N1HW = (x_N1HW - mean) / std
    x_N1HW = cropped(x_N1HW, _boxes(draw, settings))
    decibel = 1 / (RANGE_DB * std)
    gains_N2 = (2 * torch.stack([draw["start"], draw["end"]], dim=1) - 1) * settings.fader * decibel
    x_N1HW = faded(x_N1HW, gains_N2)
    x_N1HW = x_N1HW + noise_N1HW * each(draw["noise"] * settings.noise * decibel)
    hidden_NW = span(draw["time_mask"] * settings.time_mask, draw["time_start"], width)
    hidden_NH = span(
        draw["frequency_mask"] * settings.frequency_mask, draw["frequency_start"], height
    )
    hidden_N1HW = hidden_NW[:, None, None, :] | hidden_NH[:, None, :, None]
    x_N1HW = x_N1HW.masked_fill(hidden_N1HW, 0.0)  # 0 is the mean of all clips
    return x_N1HW.view(count, batch, 1, height, width)


def mixed(x_N1HW: Tensor, other_N1HW: Tensor, share_N: Tensor) -> Tensor:
    """Mixes the power of others in: log((1 − λ) exp(x) + λ exp(other)), in levels of 0 to 1."""
    share_N111 = each(share_N).clamp(max=1 - 1e-6)
    own = x_N1HW * LEVELS_TO_NEPER + torch.log1p(-share_N111)
    others = other_N1HW * LEVELS_TO_NEPER + share_N111.log()  # −∞ for a share of 0
    return torch.logaddexp(own, others) / LEVELS_TO_NEPER


def cropped(x_N1HW: Tensor, boxes_N4: Tensor) -> Tensor:
    """Cuts crops out and resizes them to the whole map.

    Args:
        x_N1HW: normalised maps; beyond them is 0, the mean.
        boxes_N4: left, top, width, height as shares of the map.
    """
    left_N, top_N, width_N, height_N = boxes_N4.unbind(1)
    zero_N = torch.zeros_like(left_N)
    # grid_sample's coordinates run from −1 to 1 over the map.
    theta_N6 = torch.stack(
        [width_N, zero_N, 2 * left_N + width_N - 1, zero_N, height_N, 2 * top_N + height_N - 1],
        dim=1,
    )
    grid_NHW2 = F.affine_grid(theta_N6.view(-1, 2, 3), list(x_N1HW.shape), align_corners=False)
    return F.grid_sample(x_N1HW, grid_NHW2, padding_mode="zeros", align_corners=False)


def faded(x_N1HW: Tensor, gains_N2: Tensor) -> Tensor:
    """Adds a gain that goes linearly from one value at the start to another at the end."""
    share_W = torch.linspace(0, 1, x_N1HW.shape[3], device=x_N1HW.device)
    start_N1, end_N1 = gains_N2[:, :1], gains_N2[:, 1:]
    return x_N1HW + torch.lerp(start_N1, end_N1, share_W)[:, None, None, :]


def _boxes(draw: dict[str, Tensor], settings: AudioViews) -> Tensor:
    """Crops: left, top, width, height (N, 4) as shares of the map.

    As in BYOL-A, a crop lies anywhere within the time that the longest crop takes, with the clip in
    its middle, and within the bands.
    """
    slow, long = settings.time_scale
    width_N = slow + (long - slow) * draw["time"]
    canvas = max(1.0, long)
    left_N = (canvas - width_N) * draw["left"] - (canvas - 1) / 2
    low, high = settings.frequency_scale
    height_N = (low + (high - low) * draw["frequency"]).clamp(max=1)
    return torch.stack([left_N, (1 - height_N) * draw["top"], width_N, height_N], dim=1)
