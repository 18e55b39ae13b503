"""Clips with one cue removed: smoothed, reversed, cut up, half of the bands, spectrum levelled.

Dimensions: B clips, M mel bands, T time steps. Clips are log-mel maps, uint8 (B, 1, M, T), in and
out; 0 is silence, and differences of values are ratios of power.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

CUTOFF = 0.25
"""The frequency that parts slow from fast changes, as a share of the highest one: at a hop of
10 ms, what changes up to 12.5 times a second stays: syllables, not single consonants."""
PARTS = 8
"""Parts of the time that are shuffled."""


def smoothed(clips: Tensor) -> Tensor:
    """Only what changes slowly in time: in each band, frequencies above `CUTOFF` are removed."""
    spectrum = torch.fft.rfft(clips.float(), dim=-1)
    frequencies = torch.fft.rfftfreq(clips.shape[-1], device=clips.device)
    kept = spectrum * (frequencies <= CUTOFF / 2)
    return _as_clips(torch.fft.irfft(kept, n=clips.shape[-1], dim=-1))


def reversed_in_time(clips: Tensor) -> Tensor:
    """The same spectra in the opposite order."""
    return clips.flip(-1)


def shuffled_parts(clips: Tensor) -> Tensor:
    """`PARTS` parts of the time in random order, the same for every clip: sounds without order."""
    parts = clips.tensor_split(PARTS, dim=-1)
    order = torch.randperm(PARTS, generator=torch.Generator().manual_seed(0))
    return torch.cat([parts[int(at)] for at in order], dim=-1)


def low_bands(clips: Tensor) -> Tensor:
    """The lower half of the bands; the others are silent."""
    bands = torch.arange(clips.shape[-2], device=clips.device)
    return clips * (bands < clips.shape[-2] // 2)[:, None].to(clips)


def high_bands(clips: Tensor) -> Tensor:
    """The upper half of the bands; the others are silent."""
    return clips - low_bands(clips)


def flat_spectrum(clips: Tensor) -> Tensor:
    """Every band has the same mean level over the time that sounds.

    The mean spectrum tells voices and microphones apart; what changes over time stays.
    """
    mean_B1M1, sounding_B11T = _mean_spectrum(clips)
    level_B111 = mean_B1M1.mean(dim=-2, keepdim=True)
    return _as_clips((clips.float() - mean_B1M1 + level_B111) * sounding_B11T)


def swapped_spectrum(clips: Tensor) -> Tensor:
    """The mean spectrum of the next clip of the batch in place of a clip's own: another voice."""
    mean_B1M1, sounding_B11T = _mean_spectrum(clips)
    other_B1M1 = torch.roll(mean_B1M1, 1, dims=0)
    return _as_clips((clips.float() - mean_B1M1 + other_B1M1) * sounding_B11T)


CLIP_CUES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "smoothed": smoothed,
    "reversed": reversed_in_time,
    "shuffled parts": shuffled_parts,
    "low bands": low_bands,
    "high bands": high_bands,
    "flat spectrum": flat_spectrum,
    "swapped spectrum": swapped_spectrum,
}
"""What is done to the clips by the name of the condition."""


def _mean_spectrum(clips: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over the steps that are not silent, (B, 1, M, 1), and these steps, (B, 1, 1, T)."""
    sounding_B11T = (clips > 0).any(dim=-2, keepdim=True).float()
    steps_B111 = sounding_B11T.sum(dim=-1, keepdim=True).clamp_min(1)
    return (clips.float() * sounding_B11T).sum(dim=-1, keepdim=True) / steps_B111, sounding_B11T


def _as_clips(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)
