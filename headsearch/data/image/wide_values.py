"""Images of more than 8 bits a value: the range that a set uses of them, and its scale to 8 bits.

Sensors fill 10 or 12 of 16 bits, scanners add an offset, and floats have no fixed range. One scale
is measured on a sample of the set, so that the same value is the same grey in all of its images.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SAMPLED = 64
"""The number of images that the range of a set is measured on."""
TAIL = 0.001
"""The share of an image's pixels that is left out at either end of its range (dead pixels)."""
PIXELS = 2**16
"""At most about so many pixels of an image are used to measure its range."""
FULL = (0.0, 65535.0)
"""The range of 16 bits. It is kept for a set that uses more than half of it."""

GREY, COLOUR, FLOAT = "grey values of 16 or 32 bits", "colours of 16 bits", "floating point values"


@dataclass(frozen=True)
class Scale:
    """The ranges of values that are mapped to 0–255, by kind (`GREY`, `COLOUR`, `FLOAT`).

    Values outside are clipped. A kind without a range has that of 16 bits; floats have
    that of each image.
    """

    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def notes(self, name: str) -> tuple[str, ...]:
        """What was done to the images of a source of this name, one line for each kind."""
        return tuple(
            f"{name}: {kind} are scaled to 8 bits from the range that the set uses, "
            f"{low:g} to {high:g}"
            for kind, (low, high) in self.ranges.items()
            if (low, high) != FULL
        )

    def with_missing(self, other: Scale) -> Scale:
        """This scale with the ranges of another for the kinds that it has none of."""
        return Scale({**other.ranges, **self.ranges})

    def to_8_bits(self, image: Image.Image) -> Image.Image:
        """An image as it is, or scaled to mode L or RGB if it has more than 8 bits a value."""
        kind = kind_of(image)
        if kind is None:
            return image
        low, high = self.ranges.get(kind, FULL)
        if kind == COLOUR and (low, high) == FULL:
            return image  # Pillow decodes the upper 8 bits
        values = values_of(image, kind)  # before anything else decodes the image
        alpha = image.getchannel("A") if kind == COLOUR and image.mode == "RGBA" else None
        if kind == FLOAT and kind not in self.ranges:
            low, high = float(values.min()), float(values.max())
        scaled = (values - low) / max(high - low, 1e-12) * 255
        scaled_image = Image.fromarray(scaled.clip(0, 255).round().astype(np.uint8))
        if alpha is not None:
            scaled_image.putalpha(alpha)
        return scaled_image


NOMINAL = Scale()
"""The scale where no set was measured: all of 16 bits, and the range of each image of floats."""


def kind_of(image: Image.Image) -> str | None:
    """The kind of values of an image; None for 8 bits, as far as Pillow tells.

    Pillow opens colours of 16 bits like those of 8 bits. Only the way in which it is going to
    decode them gives them away, so an image that is decoded already counts as one of 8 bits.
    """
    if image.mode.startswith("I"):  # also mode I (32 bits), as older Pillow opens 16 bits
        return GREY
    if image.mode == "F":
        return FLOAT
    return COLOUR if image.mode in ("RGB", "RGBA") and ";16" in _raw_mode(image) else None


def values_of(image: Image.Image, kind: str) -> NDArray[np.float64]:
    """The values of an image of this kind: (H, W), or (H, W, 3) for colours; NaN and ∞ become 0."""
    if kind == COLOUR:
        lower = _lower_bytes(image)
        upper = np.asarray(image, dtype=np.float64)[..., :3]
        # Without the lower bytes, the upper ones stand for both, as 255 · 257 = 65535.
        return upper * 256 + lower if lower is not None else upper * 257
    values = np.asarray(image, dtype=np.float64)
    return np.nan_to_num(values, posinf=0.0, neginf=0.0)


def ends_of(image: Image.Image) -> tuple[str, float, float] | None:
    """The kind of an image with its darkest and brightest value, without `TAIL` of its pixels.

    None for 8 bits.
    """
    kind = kind_of(image)
    if kind is None:
        return None
    values = values_of(image, kind).ravel()
    low, high = np.quantile(values[:: len(values) // PIXELS + 1], (TAIL, 1 - TAIL))
    return kind, float(low), float(high)


def measured(ends: Iterable[tuple[str, float, float]]) -> Scale:
    """The scale for a set, from the `ends_of` a sample of its images.

    The range of a kind reaches from the darkest to the brightest value of all.
    """
    found: dict[str, tuple[float, float]] = {}
    for kind, low, high in ends:
        lowest, highest = found.get(kind, (low, high))
        found[kind] = min(low, lowest), max(high, highest)
    return Scale({kind: _range(kind, *both) for kind, both in found.items()})


def _range(kind: str, low: float, high: float) -> tuple[float, float]:
    within = kind != FLOAT and FULL[0] <= low and high <= FULL[1]
    if within and (high - low > FULL[1] / 2 or high == low):
        return FULL
    return low, high


def _raw_mode(image: Image.Image) -> str:
    """Pillow's name of the pixel format in the file; empty if the image is decoded already."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    arguments = tiles[0][3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def _lower_bytes(image: Image.Image) -> NDArray[np.float64] | None:
    """The lower bytes of an image of 16-bit colours, (H, W, 3), or None if Pillow cannot read them.

    Pillow keeps the upper byte of each value. It reads the lower one if it is told that the bytes
    are in the other order.
    """
    data, raw = getattr(image, "fp", None), _raw_mode(image)
    if not isinstance(data, io.BytesIO):
        return None
    other = raw[:-1] + _OTHER_ORDER.get(raw[-1], "")
    try:
        lower = Image.open(io.BytesIO(data.getvalue()), formats=[str(image.format)])
        tiles = getattr(lower, "tile", [])
        lower.tile = [tile._replace(args=_renamed(tile.args, other)) for tile in tiles]
        return np.asarray(lower, dtype=np.float64)[..., :3]
    except (
        AttributeError,
        ValueError,
        SystemError,
    ):
        return None  # an older Pillow, or a format that it cannot unpack in this order


def _renamed(arguments: object, raw_mode: str) -> object:
    return (raw_mode, *arguments[1:]) if isinstance(arguments, tuple) else raw_mode
