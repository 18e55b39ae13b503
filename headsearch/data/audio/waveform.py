"""`Waveform`: keeps the samples of a clip as bytes, for bases that take waveforms.

A clip is (2, 1, T) uint8, as 16-bit PCM: the low and the high byte of each sample, a whole number
from -32768 to 32767 in two's complement. So clips are stored, ordered and split as images are.
Shapes: B clips, T samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headsearch.config.audio_settings import HOP_MS, MELS, WINDOW_MS, waveform_shape
from headsearch.config.input_shape import InputShape
from headsearch.data.audio.log_mel import LogMel
from headsearch.errors import UserError

FULL_SCALE = 32768
"""The whole number that stands for 1."""


@dataclass(frozen=True)
class Waveform:
    """How clips are kept as waveforms.

    Attributes:
        sample_rate: samples per second.
        clip_seconds: the length of all clips.
    """

    sample_rate: int
    clip_seconds: float

    @property
    def shape(self) -> InputShape:
        """The shape (2, 1, T) of a clip."""
        return waveform_shape(self.clip_seconds, self.sample_rate)

    @property
    def length(self) -> int:
        """T, the number of samples of a clip."""
        return self.shape.width

    def of(self, waveform_T: NDArray[np.float32]) -> NDArray[np.uint8]:
        """A waveform in [-1, 1] of `length` samples as bytes, (2, 1, T)."""
        assert waveform_T.shape == (self.length,)
        return kept(torch.from_numpy(waveform_T).view(1, 1, 1, -1))[0].numpy()


def samples(batch_B21T: Tensor) -> Tensor:
    """Clips (B, 2, 1, T) uint8 as waveforms (B, 1, 1, T) float32 in [-1, 1)."""
    low_B1T, high_B1T = batch_B21T.int().unbind(1)
    # A high byte from 128 on is that of a negative number.
    whole_B1T = low_B1T + ((high_B1T ^ 128) - 128) * 256
    return whole_B1T.unsqueeze(1).float() / FULL_SCALE


def kept(waveforms_B11T: Tensor) -> Tensor:
    """Waveforms (B, 1, 1, T) as they are kept, (B, 2, 1, T) uint8, cut to [-1, 1)."""
    whole_B1T = (waveforms_B11T[:, 0] * FULL_SCALE).round().clamp(-FULL_SCALE, FULL_SCALE - 1).int()
    return torch.stack([whole_B1T & 255, (whole_B1T >> 8) & 255], dim=1).to(torch.uint8)


def log_mels(batches: Iterable[Tensor], shape: InputShape) -> Iterable[Tensor]:
    """The log-mel maps (B, 1, M, W) uint8 of clips (B, 2, 1, T) uint8, with the default settings.

    They are those that a base of log-mel maps would get of the same clips.
    """
    log_mel = default_log_mel(shape.width, shape.rate)
    for batch in batches:
        waveforms_BT = samples(batch.cpu()).flatten(1).numpy()
        yield torch.from_numpy(np.stack([log_mel.of(waveform_T) for waveform_T in waveforms_BT]))


@lru_cache(maxsize=8)
def default_log_mel(length: int, rate: int) -> LogMel:
    """The log-mel maps of clips of so many samples, with fewer bands at a low sample rate."""
    steps = length // round(rate * HOP_MS / 1000)
    for mels in (MELS, MELS // 2, MELS // 4):
        try:
            return LogMel(rate, steps * HOP_MS / 1000, WINDOW_MS, HOP_MS, mels)
        except UserError:
            continue
    raise UserError(f"--sample-rate {rate} is too low for a log-mel map")
