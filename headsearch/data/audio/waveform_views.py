"""Random views of waveforms on the training device: see `WaveformViews`.

Nothing here waits for the device. Suffixes: B clips of a batch, N views of all clips (count × B),
T samples, F frequencies.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from headsearch.config.waveform_views import WaveformViews
from headsearch.data.audio.draws import each, gaussian, shuffled, span, uniform
from headsearch.data.audio.waveform import samples

_DRAWS = (
    "mixup", "speed", "shift", "start", "end", "band", "band_start", "noise", "time_mask",
    "time_start",
)  # fmt: skip
"""The uniform numbers drawn for each view of each clip, used or not, as for images."""
MEL_BEND = 8000 / 700
"""A frequency f, as a share of the highest one, lies at log(1 + f · this) on the scale of bands:
the mel scale of clips of 16 kHz, at every sample rate."""


def make_waveform_views(
    clips_B21T: Tensor,
    generator: torch.Generator | None,
    settings: WaveformViews,
    count: int,
    part: tuple[int, int],
) -> Tensor:
    """Draws `count` random views of every waveform.

    Args:
        clips_B21T: (B, 2, 1, T) uint8; see `waveform.py`.
        generator: a generator on the clips' device; None only on `meta`.
        settings: the augmentations.
        count: the number of views of each clip.
        part: (p, n) if the clips are the p-th of n equal parts of a batch. They get the same random
            numbers as in a call with the whole batch. Clips are mixed within their part.

    Returns:
        (count, B, 1, 1, T) float32, which may be beyond [-1, 1]: the base scales its inputs.
    """
    x_N11T = samples(clips_B21T)
    batch, length = len(x_N11T), x_N11T.shape[-1]
    draw = uniform(x_N11T, _DRAWS, generator, count, part)
    noise_N11T = gaussian(x_N11T, generator, count, part)
    # Drawn last, since it alone depends on the number of parts.
    other_N11T = shuffled(x_N11T, generator, count)
    x_N11T = mixed(x_N11T.repeat(count, 1, 1, 1), other_N11T, settings.mixup * draw["mixup"])
    slow, fast = settings.speed
    shift_N = (2 * draw["shift"] - 1) * settings.shift * length
    x_N11T = resampled(x_N11T, slow + (fast - slow) * draw["speed"], shift_N)
    gains_N2 = (2 * torch.stack([draw["start"], draw["end"]], dim=1) - 1) * settings.fader
    x_N11T = faded(x_N11T, gains_N2)
    x_N11T = without_band(x_N11T, settings.band_mask * draw["band"], draw["band_start"])
    low, high = settings.noise
    x_N11T = noisy(x_N11T, noise_N11T, low + (high - low) * draw["noise"])
    hidden_NT = span(draw["time_mask"] * settings.time_mask, draw["time_start"], length)
    x_N11T = x_N11T.masked_fill(hidden_NT[:, None, None], 0.0)
    return x_N11T.view(count, batch, 1, 1, length)


def mixed(x_N11T: Tensor, other_N11T: Tensor, share_N: Tensor) -> Tensor:
    """Mixes others in: √(1 − λ) x + √λ other, which mixes the powers of unrelated sounds by λ."""
    return (1 - each(share_N)).sqrt() * x_N11T + each(share_N).sqrt() * other_N11T


def resampled(x_N11T: Tensor, speed_N: Tensor, shift_N: Tensor) -> Tensor:
    """Waveforms at other speeds around their middle, and shifted; silent beyond their ends.

    Values between samples are interpolated linearly.

    Args:
        x_N11T: the waveforms.
        speed_N: above 1 for faster ones.
        shift_N: in samples; what is heard lies this much earlier.
    """
    length = x_N11T.shape[-1]
    place_T = torch.arange(length, device=x_N11T.device)
    # As a distance from the place, which 32 bits hold more finely than the place itself.
    away_NT = (place_T - (length - 1) / 2) * (speed_N[:, None] - 1) + shift_N[:, None]
    whole_NT = away_NT.floor()
    first_NT = place_T + whole_NT.long()
    x_NT, result_NT = x_N11T.flatten(1), torch.zeros_like(x_N11T.flatten(1))
    for index_NT, weight_NT in (
        (first_NT, 1 - (away_NT - whole_NT)),
        (first_NT + 1, away_NT - whole_NT),
    ):
        within_NT = (index_NT >= 0) & (index_NT < length)
        found_NT = x_NT.gather(1, index_NT.clamp(0, length - 1))
        result_NT = result_NT + torch.where(within_NT, weight_NT * found_NT, 0.0)
    return result_NT.view_as(x_N11T)


def faded(x_N11T: Tensor, gains_N2: Tensor) -> Tensor:
    """Applies a gain in dB that goes linearly from one value at the start to another at the end."""
    share_T = torch.linspace(0, 1, x_N11T.shape[-1], device=x_N11T.device)
    decibel_NT = torch.lerp(gains_N2[:, :1], gains_N2[:, 1:], share_T)
    return x_N11T * torch.exp(decibel_NT * (math.log(10) / 20))[:, None, None]


def without_band(x_N11T: Tensor, width_N: Tensor, start_N: Tensor) -> Tensor:
    """Takes a band of frequencies out.

    Args:
        x_N11T: the waveforms.
        width_N: of the band, as a share of the scale; see `MEL_BEND`.
        start_N: uniform numbers, where it starts among the possible places.
    """
    length = x_N11T.shape[-1]
    share_F = torch.linspace(0, 1, length // 2 + 1, device=x_N11T.device)
    place_F = torch.log1p(share_F * MEL_BEND) / math.log1p(MEL_BEND)
    first_N1 = (start_N * (1 - width_N))[:, None]
    hidden_NF = (place_F >= first_N1) & (place_F < first_N1 + width_N[:, None])
    spectrum_N11F = torch.fft.rfft(x_N11T).masked_fill(hidden_NF[:, None, None], 0.0)
    kept: Tensor = torch.fft.irfft(spectrum_N11F, n=length)
    return kept


def noisy(x_N11T: Tensor, noise_N11T: Tensor, ratio_N: Tensor) -> Tensor:
    """Adds noise of variance 1 at a signal-to-noise ratio in dB, over the whole of a clip."""
    rms_N111 = x_N11T.square().mean(dim=-1, keepdim=True).sqrt()
    return x_N11T + noise_N11T * rms_N111 * torch.exp(-each(ratio_N) * (math.log(10) / 20))
