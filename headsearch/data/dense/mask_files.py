"""Reads mask files: palette and grey indices, colours, 0/255 masks; values become classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headsearch.data.dense.annotated import MaskReading
from headsearch.data.dense.images import VOID
from headsearch.data.image.decode import BROKEN, BadImage, open_image
from headsearch.errors import UserError
from headsearch.text import printable

LOSSY = ("JPEG", "JPEG2000")
MOST_CLASSES = 1000
"""More classes than any set has: so many different values are a depth map or a photo."""


def read_mask(path: Path) -> Image.Image:
    """Opens a mask without changing its values.

    Raises:
        UserError: it cannot be read, or is stored with loss, so that its values mean nothing.
    """
    try:
        image = open_image(path.read_bytes())
        if image.format in LOSSY:
            raise UserError(
                f"{path}: a {image.format} changes the values of a mask; store masks as PNG"
            )
        image.load()
    except UserError:
        raise
    except (BadImage, *BROKEN) as error:
        raise UserError(f"{path}: the mask cannot be read: {error}") from None
    return image


def indices_of(path: Path, image: Image.Image, reading: MaskReading) -> NDArray[np.int32]:
    """The values of a mask as (h, w) int32: indices, or classes if it is drawn in colours.

    A palette image gives its indices, never the brightness of its colours.

    Raises:
        UserError: it is drawn in colours that have no class.
    """
    if image.mode == "1":
        return np.asarray(image).astype(np.int32)
    if image.mode in ("LA", "PA"):
        image = image.getchannel(0)
    if image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255):
        raise UserError(f"{path}: the mask has transparent pixels; store indices or plain colours")
    if image.mode in ("RGB", "RGBA"):
        return _classes_of_colours(path, np.asarray(image)[..., :3], reading)
    if image.mode not in ("P", "L", "I", "I;16", "I;16B"):
        raise UserError(f"{path}: a mask of Pillow's mode {image.mode} holds no class indices")
    if reading.colours is not None and image.mode == "P":
        return _classes_of_colours(path, np.asarray(image.convert("RGB")), reading)
    return np.asarray(image).astype(np.int32)


def _classes_of_colours(
    path: Path, pixels: NDArray[np.uint8], reading: MaskReading
) -> NDArray[np.int32]:
    if reading.colours is None:
        if (pixels == pixels[..., :1]).all():  # indices stored as grey colours
            return pixels[..., 0].astype(np.int32)
        raise UserError(
            f"{path}: the mask is drawn in colours: name a file with a line 'NAME R G B' for each "
            "class in --dense-classes"
        )
    packed = _packed(pixels.astype(np.int32))
    known = np.array([_packed(np.array(colour)) for colour in reading.colours])
    classes = np.array(list(reading.colours.values()), dtype=np.int32)
    order = known.argsort()
    place = np.searchsorted(known[order], packed).clip(max=len(known) - 1)
    found = known[order][place] == packed
    if not found.all():
        r, g, b = (int(value) for value in pixels[~found][0])
        raise UserError(
            f"{path}: the mask has the colour ({r}, {g}, {b}), which no class has; add it to the "
            "map of colours (as 'void' if it does not count)"
        )
    taken: NDArray[np.int32] = classes[order][place]
    return taken


def _packed(colours: NDArray[np.int32]) -> NDArray[np.int32]:
    packed: NDArray[np.int32] = colours[..., 0] * 65536 + colours[..., 1] * 256 + colours[..., 2]
    return packed


def settled(reading: MaskReading, values: Collection[int], modes: Collection[str]) -> MaskReading:
    """The reading of masks, once all their values are known.

    Args:
        reading: what the layout and the settings say.
        values: all values that occur.
        modes: Pillow's modes of the masks.
    """
    binary = reading.binary
    if binary is None:
        plain = reading.table is None and reading.colours is None and "P" not in modes
        names = reading.classes is None or len(reading.classes) == 2
        binary = plain and names and set(values) == {0, 255} and reading.void <= {255}
    reading = replace(reading, binary=binary)
    if reading.binary:
        return replace(
            reading, classes=reading.classes or ("background", "object"), void=frozenset(),
            table={0: 0, 255: 1},
        )  # fmt: skip
    if reading.classes is not None:
        return reading
    seen = [value for value in values if value not in reading.void and value != VOID]
    count = max(seen, default=0) + 1
    return replace(reading, classes=tuple(map(str, range(count))))


def to_classes(path: Path, values: NDArray[np.int32], reading: MaskReading) -> NDArray[np.int16]:
    """The classes of a mask's values: (h, w) int16, `VOID` for pixels that do not count.

    Raises:
        UserError: a value is no class.
    """
    assert reading.classes is not None
    if reading.colours is not None:
        return values.astype(np.int16)
    void = np.isin(values, list(reading.void))
    if reading.table is not None:
        classes = np.full(values.shape, VOID, dtype=np.int16)
        for value, number in reading.table.items():
            classes[values == value] = number
        classes[void] = VOID
        return classes
    wrong = ~void & ((values < 0) | (values >= len(reading.classes)))
    if wrong.any():
        value, pixels = Counter(values[wrong].tolist()).most_common(1)[0]
        raise UserError(
            f"{path}: the mask has the value {value} ({pixels} pixels), but there are "
            f"{len(reading.classes)} classes, 0 to {len(reading.classes) - 1}; name all classes in "
            f"--dense-classes, or leave the value out with --dense-ignore {value}"
        )
    return np.where(void, VOID, values).astype(np.int16)


def class_names(lines: Collection[str]) -> tuple[tuple[str, ...], dict[tuple[int, int, int], int]]:
    """Names of classes and their colours from lines 'NAME', 'NAME R G B', 'NAME,R,G,B'.

    Also 'R G B NAME' and 'NAME:R,G,B::'. A class named void, ignore or unlabelled is void. Lines
    that begin with # are comments. A line with a number before a name ('3 car') is taken as the
    name alone if the numbers run from 0.
    """
    names: list[str] = []
    colours: dict[tuple[int, int, int], int] = {}
    numbered: list[bool] = []
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colour = _name_and_colour(line)
        if colour is None and name.lower().endswith(" r g b"):  # the heading of a table
            continue
        void = name.lower() in VOID_NAMES and colour is not None
        if colour is not None:
            colours[colour] = VOID if void else len(names)
        if not void:
            first, _, rest = name.partition(" ")
            numbered.append(first == str(len(names)) and bool(rest.strip()))
            names.append(printable(name))
    if names and all(numbered):
        names = [name.partition(" ")[2].strip() for name in names]
    return tuple(names), colours


VOID_NAMES = ("void", "ignore", "ignored", "unlabelled", "unlabeled")


def _name_and_colour(line: str) -> tuple[str, tuple[int, int, int] | None]:
    words = line.replace(",", " ").replace(":", " ").replace("\t", " ").split()
    for numbers, rest in ((words[-3:], words[:-3]), (words[:3], words[3:])):
        levels = [int(word) for word in numbers if word.isascii() and word.isdigit()]
        if len(levels) == 3 and rest and max(levels) <= 255:
            return " ".join(rest), (levels[0], levels[1], levels[2])
    return " ".join(words), None


def shrunk(classes: NDArray[np.int16], most: int) -> NDArray[np.int16]:
    """The mask with at most `most` pixels along its longer side, each the nearest one's class."""
    height, width = classes.shape
    scale = min(1.0, most / max(height, width))
    if scale == 1.0:
        return classes
    rows, columns = (_nearest(side, max(1, round(side * scale))) for side in (height, width))
    taken: NDArray[np.int16] = classes[rows][:, columns]
    return taken


def _nearest(side: int, count: int) -> NDArray[np.int64]:
    """The pixels under the centres of `count` equal parts of a side."""
    return np.floor((np.arange(count) + 0.5) / count * side).astype(np.int64)


def check_count(reading: MaskReading, name: str) -> None:
    """Raises UserError if there are more classes than masks have."""
    assert reading.classes is not None
    if len(reading.classes) > MOST_CLASSES:
        raise UserError(
            f"--dense-data {name}: masks with {len(reading.classes)} classes; at most "
            f"{MOST_CLASSES} are read, and a depth map is no mask"
        )
