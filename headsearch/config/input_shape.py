"""`InputShape`: the shape of what a base takes as one input, of any domain."""

from __future__ import annotations

from typing import NamedTuple

TOKEN_BYTES = 3
"""The bytes that a token is kept in: enough for any vocabulary in use."""
SAMPLE_BYTES = 2
"""The bytes that a sample of a waveform is kept in, as in most files of sound."""


class InputShape(NamedTuple):
    """The shape of one input of a base: an image, the log-mel map or the waveform of a
    clip, or a text.

    Attributes:
        channels: 3 for the colours of an image, 1 for a log-mel map, 3 for the bytes of a token,
            2 for those of a sample of a waveform.
        height: rows of pixels, or mel bands; 1 of a text and of a waveform.
        width: columns of pixels, time steps, tokens, or samples.
        sequence: whether the columns are a sequence in time. A patch then takes the whole height,
            so that the base's map has one row, with a token for each part of the time.
        vocabulary: the number of different tokens; 0 of what is no text.
        rate: samples per second; 0 of what is no waveform.
    """

    channels: int
    height: int
    width: int
    sequence: bool = False
    vocabulary: int = 0
    rate: int = 0

    @classmethod
    def square(cls, side: int) -> InputShape:
        """A square colour image of this side in pixels."""
        return cls(3, side, side)

    @classmethod
    def text(cls, tokens: int, vocabulary: int) -> InputShape:
        """A text of so many tokens of a vocabulary, each kept in `TOKEN_BYTES` bytes."""
        return cls(TOKEN_BYTES, 1, tokens, sequence=True, vocabulary=vocabulary)

    @classmethod
    def waveform(cls, samples: int, rate: int) -> InputShape:
        """A waveform of so many samples, each kept in `SAMPLE_BYTES` bytes."""
        return cls(SAMPLE_BYTES, 1, samples, sequence=True, rate=rate)

    @property
    def tensor(self) -> tuple[int, int, int]:
        """(C, H, W), the shape of one input as it is kept."""
        return self.channels, self.height, self.width

    @property
    def floats(self) -> tuple[int, int, int]:
        """(C, H, W), the shape of one input as a base takes it; a text is taken as token ids."""
        return (1, 1, self.width) if self.rate else self.tensor

    @property
    def values(self) -> int:
        """The number of values of one input."""
        return self.channels * self.height * self.width

    @property
    def words(self) -> str:
        """What the inputs are, for notes."""
        if self.vocabulary:
            return f"texts of up to {self.width} tokens"
        if self.rate:
            return f"waveforms of {self.width} samples"
        size = f"{self.height}×{self.width}"
        return f"log-mel maps of {size}" if self.sequence else f"{size} images"

    @property
    def sample(self) -> str:
        """What one input is called."""
        if self.vocabulary:
            return "text"
        return "clip" if self.sequence else "image"

    @property
    def setting(self) -> str:
        """The settings that decide it, for messages."""
        if self.vocabulary:
            return f"--text-tokens {self.width}"
        if self.rate:
            return "--clip-seconds and --sample-rate"
        return "--clip-seconds and --hop-ms" if self.sequence else f"--image-size {self.width}"
