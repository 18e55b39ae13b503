"""`InputShape`: the shape of what a base takes as one input, of any domain."""

from __future__ import annotations

from typing import NamedTuple


class InputShape(NamedTuple):
    """The shape of one input of a base: an image, or the log-mel map of a clip.

    Attributes:
        channels: 3 for the colours of an image, 1 for a log-mel map.
        height: rows of pixels, or mel bands.
        width: columns of pixels, or time steps.
        sequence: whether the columns are a sequence in time. A patch then takes the whole height,
            so that the base's map has one row, with a token for each part of the time.
    """

    channels: int
    height: int
    width: int
    sequence: bool = False

    @classmethod
    def square(cls, side: int) -> InputShape:
        """A square colour image of this side in pixels."""
        return cls(3, side, side)

    @property
    def tensor(self) -> tuple[int, int, int]:
        """(C, H, W), the shape of one input as a tensor."""
        return self.channels, self.height, self.width

    @property
    def values(self) -> int:
        """The number of values of one input."""
        return self.channels * self.height * self.width

    @property
    def words(self) -> str:
        """What the inputs are, for notes."""
        size = f"{self.height}×{self.width}"
        return f"log-mel maps of {size}" if self.sequence else f"{size} images"

    @property
    def sample(self) -> str:
        """What one input is called."""
        return "clip" if self.sequence else "image"

    @property
    def setting(self) -> str:
        """The settings that decide it, for messages."""
        return "--clip-seconds and --hop-ms" if self.sequence else f"--image-size {self.width}"
