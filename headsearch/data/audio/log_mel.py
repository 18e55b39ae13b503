"""`LogMel`: turns a waveform into its log-mel map, the input of bases for sound.

A log-mel map holds the power of a sound in each band of frequencies over time, in dB. Bands are
equally wide on the mel scale, on which equal distances sound alike. Shapes: T samples of a
waveform, W time steps, F frequencies, M bands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headsearch.config.audio_settings import (
    HOP_MS,
    MELS,
    WINDOW_MS,
    samples_of,
    time_steps,
)
from headsearch.config.input_shape import InputShape
from headsearch.errors import UserError

FLOOR_DB, RANGE_DB = -90.0, 100.0
"""A map is kept in 8 bits: 0 is -90 dB or less, 255 is +10 dB or more, a level is 0.39 dB. 0 dB is
the peak of a sine of full scale in the spectrum."""


@dataclass(frozen=True)
class LogMel:
    """How log-mel maps are made.

    Attributes:
        sample_rate: samples per second of the waveforms.
        clip_seconds: the length of all clips.
        window_ms, hop_ms: length of the Hann window, and distance of two windows, in milliseconds.
        mels: number of mel bands, from 0 Hz to half of the sample rate.

    Raises:
        UserError: a window is shorter than two samples, or a band lies between two frequencies of
            the spectrum, so that it would be empty.
    """

    sample_rate: int
    clip_seconds: float
    window_ms: float = WINDOW_MS
    hop_ms: float = HOP_MS
    mels: int = MELS

    def __post_init__(self) -> None:
        if self.hop < 1 or self.window < 2:
            raise UserError(
                f"--window-ms {self.window_ms:g} and --hop-ms {self.hop_ms:g} are too short for "
                f"--sample-rate {self.sample_rate}: a window takes two samples or more"
            )
        if not bool((self.filters.sum(dim=1) > 0).all()):
            raise UserError(
                f"--mels {self.mels} are too many for --sample-rate {self.sample_rate} and "
                f"--window-ms {self.window_ms:g}: some bands would be empty; use fewer, or a "
                "longer window"
            )

    @property
    def window(self) -> int:
        """The length of the window in samples."""
        return round(self.sample_rate * self.window_ms / 1000)

    @property
    def hop(self) -> int:
        """The distance of two windows in samples."""
        return round(self.sample_rate * self.hop_ms / 1000)

    @property
    def length(self) -> int:
        """T, the number of samples of a clip: those of its time steps."""
        return samples_of(self.clip_seconds, self.sample_rate, self.hop_ms)

    @property
    def shape(self) -> InputShape:
        """The shape (1, M, W) of a map."""
        return InputShape(1, self.mels, time_steps(self.clip_seconds, self.hop_ms), sequence=True)

    @property
    def fft(self) -> int:
        """The length of the Fourier transform: a power of two, of at least two windows, so that the
        lowest bands, which are narrow, hold some frequency."""
        return 1 << math.ceil(math.log2(2 * self.window))

    @property
    def filters(self) -> Tensor:
        """The weights (M, F) of the frequencies in each band."""
        return mel_filters(self.mels, self.fft, self.sample_rate)

    def of(self, waveform_T: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The map (1, M, W) of a waveform in [-1, 1] of `length` samples, uint8; see `FLOOR_DB`."""
        assert waveform_T.shape == (self.length,)
        window = torch.hann_window(self.window)
        spectrum_FW = torch.stft(
            torch.from_numpy(waveform_T), self.fft, self.hop, self.window, window,
            center=True, pad_mode="constant", return_complex=True,
        )[:, : self.shape.width]  # fmt: skip
        # A sine of amplitude 1 has the magnitude of half the window's sum.
        power_FW = spectrum_FW.abs().square() / (window.sum() / 2) ** 2
        decibel_MW = 10 * (self.filters @ power_FW).clamp(min=1e-12).log10()
        levels_MW = (decibel_MW - FLOOR_DB) * (255 / RANGE_DB)
        return levels_MW.round().clamp(0, 255).to(torch.uint8)[None].numpy()


@lru_cache(maxsize=8)
def mel_filters(mels: int, fft: int, sample_rate: int) -> Tensor:
    """Triangles over the frequencies of a spectrum, (M, F), of equal widths in mel and a peak of 1.

    The scale is HTK's, mel = 2595 · log10(1 + f / 700) (O'Shaughnessy 1987).

    Args:
        mels: M.
        fft: length of the Fourier transform; F = fft / 2 + 1.
        sample_rate: samples per second.
    """
    frequency_F = torch.linspace(0, sample_rate / 2, fft // 2 + 1, dtype=torch.float64)
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    edge = 700 * (10 ** (torch.linspace(0, top, mels + 2, dtype=torch.float64) / 2595) - 1)
    low_M1, peak_M1, high_M1 = edge[:-2, None], edge[1:-1, None], edge[2:, None]
    rising_MF = (frequency_F - low_M1) / (peak_M1 - low_M1)
    falling_MF = (high_M1 - frequency_F) / (high_M1 - peak_M1)
    return torch.minimum(rising_MF, falling_MF).clamp(min=0).float()
