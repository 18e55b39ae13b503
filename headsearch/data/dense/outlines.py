"""Outlines of objects: polygons and run lengths, drawn into a window of the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

OVERSAMPLED = 4
"""Samples along each side of a cell; their mean is the share that an object covers of it."""
MOST_PIXELS = 2**27
"""The largest image that run lengths may describe."""
MOST_CORNERS = 100_000
"""The most corners of the outline of one object."""

Window = tuple[float, float, float, float]
"""x0, y0, x1, y1 in the units of the frame."""


class BadOutline(ValueError):  # noqa: N818 - named as `BadImage` is
    """An outline that cannot be drawn; the message says why."""


@dataclass(frozen=True)
class Polygons:
    """The area within one or more polygons.

    Attributes:
        rings: of each, its corners x, y, x, y, … in the units of the frame.
    """

    rings: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if sum(map(len, self.rings)) > 2 * MOST_CORNERS:
            raise BadOutline(f"a polygon of more than {MOST_CORNERS:,} corners")
        for ring in self.rings:
            if len(ring) < 6 or len(ring) % 2 or not all(map(math.isfinite, ring)):
                raise BadOutline("a polygon needs three corners or more, as x, y, x, y, …")

    def cover(self, window: Window, height: int, width: int) -> NDArray[np.float32]:
        """The share of each cell of a window that is covered: (height, width), 0 to 1."""
        x0, y0, x1, y1 = window
        size = (width * OVERSAMPLED, height * OVERSAMPLED)
        drawn = Image.new("1", size)
        pen = ImageDraw.Draw(drawn)
        # Pillow's pixel (0, 0) has its centre at 0, ours at half a pixel.
        scale = np.array([size[0] / (x1 - x0), size[1] / (y1 - y0)])
        for ring in self.rings:
            corners = (np.reshape(ring, (-1, 2)) - (x0, y0)) * scale - 0.5
            corners = np.clip(corners, -1e6, 1e6)
            pen.polygon([(float(x), float(y)) for x, y in corners], fill=1)
        return _mean_of_cells(np.asarray(drawn))


@dataclass(frozen=True)
class RunLengths:
    """The area that run lengths give, column by column as COCO stores them.

    Attributes:
        counts: pixels outside, inside, outside, …; their sum is height · width.
        height, width: of the image that they describe.
    """

    counts: tuple[int, ...]
    height: int
    width: int

    def __post_init__(self) -> None:
        if not 0 < self.height * self.width <= MOST_PIXELS:
            raise BadOutline(f"run lengths of an image of {self.width}×{self.height} pixels")
        if min(self.counts, default=0) < 0 or sum(self.counts) != self.height * self.width:
            raise BadOutline(
                f"run lengths of {sum(self.counts):,} pixels for an image of "
                f"{self.width}×{self.height}"
            )

    def cover(self, window: Window, height: int, width: int) -> NDArray[np.float32]:
        """As `Polygons.cover`. The units of the window are pixels of the described image."""
        inside = np.arange(len(self.counts)) % 2 == 1
        column_major = np.repeat(inside, self.counts).reshape(self.width, self.height)
        x0, y0, x1, y1 = window
        rows = _centres(y0, y1, height * OVERSAMPLED, self.height)
        columns = _centres(x0, x1, width * OVERSAMPLED, self.width)
        return _mean_of_cells(column_major[columns][:, rows].T)


Outline = Polygons | RunLengths


def from_compressed(text: str | bytes) -> tuple[int, ...]:
    """Run lengths from COCO's compressed text: base 48, six bits a character, differences.

    Each number takes 5 bits a character, the sixth says that more follow; from the third number on
    the text holds the difference from the number two places before. Source: the comments of
    pycocotools' `maskApi.h`.

    Raises:
        BadOutline: it is no such text.
    """
    data = text.encode("ascii", "replace") if isinstance(text, str) else text
    counts: list[int] = []
    position = 0
    while position < len(data):
        value, shift, more = 0, 0, True
        while more:
            if position >= len(data) or shift > 60:
                raise BadOutline("compressed run lengths that end within a number")
            digit = data[position] - 48
            if not 0 <= digit < 64:
                raise BadOutline("compressed run lengths with a character that has no meaning")
            value |= (digit & 31) << shift
            more = bool(digit & 32)
            position, shift = position + 1, shift + 5
            if not more and digit & 16:
                value |= -1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    return tuple(counts)


def outline_of(segmentation: object, height: int, width: int) -> Outline | None:
    """The outline in COCO's `segmentation`: polygons, or run lengths in either form.

    Returns:
        None if it is empty or absent.

    Raises:
        BadOutline: it is none of these.
    """
    match segmentation:
        case None | []:
            return None
        case {"counts": str() | bytes() as text, "size": size}:
            return _run_lengths(from_compressed(text), size, height, width)
        case {"counts": list() as counts, "size": size}:
            if not all(isinstance(count, int) for count in counts):
                raise BadOutline("run lengths that are no whole numbers")
            return _run_lengths(tuple(counts), size, height, width)
        case list() as rings if all(isinstance(ring, list) for ring in rings):
            try:
                usable = [tuple(float(x) for x in ring) for ring in rings if len(ring) >= 6]
            except (TypeError, ValueError):
                raise BadOutline("a polygon with something other than numbers") from None
            return Polygons(tuple(usable)) if usable else None
    raise BadOutline("a segmentation that is neither polygons nor run lengths")


def _run_lengths(counts: tuple[int, ...], size: object, height: int, width: int) -> RunLengths:
    if list(size if isinstance(size, Sequence) else ()) != [height, width]:
        raise BadOutline(f"run lengths of size {size} in an image of {width}×{height} pixels")
    return RunLengths(counts, height, width)


def _centres(begin: float, end: float, count: int, limit: int) -> NDArray[np.int64]:
    centres = begin + (np.arange(count) + 0.5) * (end - begin) / count
    return np.clip(np.floor(centres).astype(np.int64), 0, limit - 1)


def _mean_of_cells(fine: NDArray[np.bool_]) -> NDArray[np.float32]:
    height, width = (side // OVERSAMPLED for side in fine.shape)
    cells = fine.reshape(height, OVERSAMPLED, width, OVERSAMPLED)
    shares: NDArray[np.float32] = cells.mean(axis=(1, 3), dtype=np.float32)
    return shares
