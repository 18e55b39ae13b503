"""Waveforms with one cue removed: reversed, cut up, without high or low frequencies.

Dimensions: B clips, T samples. Clips are 16-bit samples as bytes, uint8 (B, 2, 1, T), in and out;
see `headsearch.data.audio.waveform`. The names are those of the same cues of log-mel maps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from headsearch.data.audio.waveform import kept, samples
from headsearch.evaluation.interpretation.clip_cues import reversed_in_time, shuffled_parts

MIDDLE = 0.25
"""The frequency that parts low from high bands, as a share of the highest one. At sample rates of 8
to 16 kHz the middle of the mel scale lies at 0.28 to 0.22 of it."""


def low_bands(clips: Tensor) -> Tensor:
    """What lies below `MIDDLE`; the rest is silent."""
    return _filtered(clips, low=True)


def high_bands(clips: Tensor) -> Tensor:
    """What lies above `MIDDLE`; the rest is silent."""
    return _filtered(clips, low=False)


WAVEFORM_CUES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "reversed": reversed_in_time,
    "shuffled parts": shuffled_parts,
    "low bands": low_bands,
    "high bands": high_bands,
}
"""What is done to the clips by the name of the condition."""


def _filtered(clips_B21T: Tensor, *, low: bool) -> Tensor:
    spectrum = torch.fft.rfft(samples(clips_B21T))
    share = torch.linspace(0, 1, spectrum.shape[-1], device=spectrum.device)
    spectrum = spectrum * ((share <= MIDDLE) == low)
    return kept(torch.fft.irfft(spectrum, n=clips_B21T.shape[-1]))
