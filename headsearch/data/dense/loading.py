"""Decodes images with their masks and objects, turned upright together."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from headsearch.data.dense.annotated import Item, MaskReading, Thing
from headsearch.data.dense.images import INSTANCE_SIDE, VOID, DenseImages, Objects
from headsearch.data.dense.mask_files import indices_of, read_mask, settled, shrunk, to_classes
from headsearch.data.dense.tiles import objects_in, tile_counts, tiles_of
from headsearch.data.image.decode import TURNS, BadImage, open_image, orientation, to_rgb
from headsearch.errors import UserError

MASK_SIDE = 256
"""Masks are kept with at most so many pixels along the longer side; a grid has far fewer cells."""
LONGEST_ASPECT_DIFFERENCE = 0.03
"""The largest relative difference of aspect between image and mask: rounding of a resized one."""


@dataclass
class Understood:
    """What was found while decoding, to be told to the user.

    Attributes:
        counts: how often each thing happened, by what is said about it.
        examples: the first file of each.
        pixels: of each class (`VOID` too), in all masks.
        boxes: of each class.
        digests: SHA-256 of the image files, with their names.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    pixels: Counter[int] = field(default_factory=Counter)
    boxes: Counter[int] = field(default_factory=Counter)
    digests: dict[bytes, str] = field(default_factory=dict)

    def note(self, what: str, example: object) -> None:
        """Counts one more of something that was left out or changed."""
        self.counts[what] += 1
        self.examples.setdefault(what, str(example))

    def lines(self) -> list[str]:
        """One line for each of the things that were noted."""
        return [f"{count} {what} ({self.examples[what]})" for what, count in self.counts.items()]


@dataclass
class Decoded:
    """One image, before its mask's values become classes.

    Attributes:
        name: of the file.
        pixels: (3, S·rows, S·columns).
        values: of its mask, upright; None without a mask.
        item: as it was found.
        turn: what turned it upright.
        size: stored width and height.
        tiles: rows and columns of tiles.
    """

    name: str
    pixels: NDArray[np.uint8]
    values: NDArray[np.int32] | None
    item: Item
    turn: Image.Transpose | None
    size: tuple[int, int]
    tiles: tuple[int, int]


def decode_items(
    items: Sequence[Item],
    size: int,
    reading: MaskReading | None,
    understood: Understood,
    on_share: Callable[[float], object] = lambda _: None,
    *,
    tiles: bool = False,
) -> list[Decoded]:
    """Decodes images and the values of their masks; images that cannot be used are noted.

    Args:
        items: the images.
        size: side of the squares that they become.
        reading: how masks are read; None without masks.
        understood: takes what was found.
        on_share: called with the share that is done.
        tiles: whether images are cut into squares of this size.
    """
    decoded = []
    needs_mask = reading is not None and any(item.mask for item in items)
    for number, item in enumerate(items):
        on_share(number / len(items))
        if needs_mask and item.mask is None:
            understood.note("images without a mask are left out", item.image.name)
            continue
        try:
            data = item.image.read_bytes()
            image = open_image(data)
            rgb = to_rgb(image)
        except (BadImage, OSError) as error:
            understood.note(f"images cannot be read and are left out: {error}", item.image.name)
            continue
        understood.digests.setdefault(hashlib.sha256(data).digest(), str(item.image))
        turn = TURNS.get(orientation(image))
        upright = rgb.transpose(turn) if turn is not None else rgb
        rows, columns = tile_counts(upright.size, size) if tiles else (1, 1)
        shape = (columns * size, rows * size)
        square = upright.resize(shape, Image.Resampling.BICUBIC, reducing_gap=3.0)
        values = None
        if item.mask is not None and reading is not None:
            values = _mask_values(item, rgb.size, turn, reading, understood)
        pixels = np.asarray(square).transpose(2, 0, 1)
        decoded.append(
            Decoded(item.image.name, pixels, values, item, turn, rgb.size, (rows, columns))
        )
    return decoded


def _mask_values(
    item: Item,
    size: tuple[int, int],
    turn: Image.Transpose | None,
    reading: MaskReading,
    understood: Understood,
) -> NDArray[np.int32]:
    """The values of a mask, upright.

    A mask that has the shape of the stored image is turned with it, one that has that of the
    upright image is not.

    Raises:
        UserError: it has another aspect than the image.
    """
    assert item.mask is not None
    mask = read_mask(item.mask)
    values = indices_of(item.mask, mask, reading)
    height, width = values.shape
    aspect = width / height * size[1] / size[0]
    swapped = width / height * size[0] / size[1]
    if abs(math.log(aspect)) <= LONGEST_ASPECT_DIFFERENCE:
        if turn is not None:
            values = turned(values, turn)
    elif turn is None or abs(math.log(swapped)) > LONGEST_ASPECT_DIFFERENCE:
        raise UserError(
            f"{item.mask}: the mask has {width}×{height} pixels and its image {item.image.name} "
            f"{size[0]}×{size[1]}, which is another shape; masks must show the whole image"
        )
    if (width, height) != size and turn is None:
        understood.note("masks have another size than their image, and the same shape",
                        item.mask.name)  # fmt: skip
    return values


def turned(values: NDArray[np.int32], turn: Image.Transpose) -> NDArray[np.int32]:
    """An array (h, w) turned as Pillow turns an image."""
    return np.asarray(Image.fromarray(values, mode="I").transpose(turn))


def settle(reading: MaskReading, sets: Sequence[Sequence[Decoded]]) -> MaskReading:
    """The reading of masks once the values of all of them are known."""
    values: set[int] = set()
    modes: set[str] = set()
    for decoded in (each for one in sets for each in one if each.values is not None):
        assert decoded.values is not None
        assert decoded.item.mask is not None
        values.update(np.unique(decoded.values).tolist())
        with Image.open(decoded.item.mask) as opened:
            modes.add(opened.mode)
    return settled(reading, values, modes)


def finished(
    decoded: Sequence[Decoded],
    reading: MaskReading | None,
    understood: Understood,
    *,
    painted: bool,
) -> DenseImages:
    """The images with their masks as classes, and their objects.

    Args:
        decoded: from `decode_items`.
        reading: settled; None without masks.
        understood: takes what was found.
        painted: whether masks are drawn from the outlines of objects.
    """
    names: list[str] = []
    pixels: list[NDArray[np.uint8]] = []
    masks: list[torch.Tensor] = []
    objects: list[Objects] = []
    sources: list[int] = []
    for source, each in enumerate(decoded):
        classes = _classes(each, reading, painted=painted)
        if classes is not None:
            _count_pixels(classes, each.name, understood)
        found = _objects(each, understood) if each.item.things is not None else None
        for tile in tiles_of(each.tiles):
            sources.append(source)
            names.append(each.name if each.tiles == (1, 1) else f"{each.name} {tile}")
            pixels.append(tile.part(each.pixels))
            if classes is not None:
                shown = shrunk(tile.part(classes), MASK_SIDE)
                masks.append(torch.from_numpy(np.ascontiguousarray(shown)))
            if found is not None:
                objects.append(objects_in(found, tile))
    cut = any(each.tiles != (1, 1) for each in decoded)
    return DenseImages(
        tuple(names),
        torch.from_numpy(np.stack(pixels)),
        tuple(masks) if len(masks) == len(names) else None,
        tuple(objects) if len(objects) == len(names) else None,
        torch.tensor(sources) if cut else None,
    )


def _classes(
    decoded: Decoded, reading: MaskReading | None, *, painted: bool
) -> NDArray[np.int16] | None:
    """The mask of an image as classes; None without one."""
    if decoded.values is not None:
        assert reading is not None
        assert decoded.item.mask is not None
        return to_classes(decoded.item.mask, decoded.values, reading)
    return _painted(decoded.item, decoded.size, decoded.turn) if painted else None


def _count_pixels(classes: NDArray[np.int16], name: str, understood: Understood) -> None:
    numbers, pixels = np.unique(classes, return_counts=True)
    understood.pixels.update(dict(zip(numbers.tolist(), pixels.tolist(), strict=True)))
    if (classes == VOID).all():
        understood.note("masks are void as a whole", name)


def _objects(decoded: Decoded, understood: Understood) -> Objects:
    """The objects of an image: boxes clipped to it, those that cannot be used left out."""
    item = decoded.item
    width, height = item.frame or decoded.size
    kept: list[tuple[Thing, list[float]]] = []
    for thing in item.things or ():
        if not all(map(math.isfinite, thing.box)):
            understood.note("boxes with NaN or infinite numbers are left out", decoded.name)
            continue
        x0, y0, x1, y1 = thing.box
        box = [x0 / width, y0 / height, x1 / width, y1 / height]
        clipped = [min(1.0, max(0.0, each)) for each in box]
        if x1 <= x0 or y1 <= y0:
            understood.note("boxes are empty and left out", decoded.name)
            continue
        if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
            understood.note("boxes lie outside of their image and are left out", decoded.name)
            continue
        if max(abs(a - b) for a, b in zip(box, clipped, strict=True)) > 0.01:
            understood.note("boxes reach out of their image and are clipped", decoded.name)
        kept.append((thing, clipped))
        if not thing.ignored:
            understood.boxes[thing.label] += 1
    boxes = torch.tensor([box for _, box in kept], dtype=torch.float32).reshape(-1, 4)
    masks = _instance_masks(kept, (width, height), decoded.turn)
    return Objects(
        turned_boxes(boxes, decoded.turn),
        torch.tensor([thing.label for thing, _ in kept], dtype=torch.int64),
        torch.tensor([thing.ignored for thing, _ in kept], dtype=torch.bool),
        masks,
    )


def _instance_masks(
    kept: Sequence[tuple[Thing, list[float]]],
    frame: tuple[float, float],
    turn: Image.Transpose | None,
) -> torch.Tensor | None:
    """The part of its box that each object covers; None unless all that count have an outline."""
    if any(thing.outline is None and not thing.ignored for thing, _ in kept):
        return None
    masks = np.zeros((len(kept), INSTANCE_SIDE, INSTANCE_SIDE), dtype=bool)
    for number, (thing, (x0, y0, x1, y1)) in enumerate(kept):
        if thing.outline is None or thing.ignored:
            continue
        window = (x0 * frame[0], y0 * frame[1], x1 * frame[0], y1 * frame[1])
        cover = thing.outline.cover(window, INSTANCE_SIDE, INSTANCE_SIDE) >= 0.5
        if turn is not None:
            cover = turned(cover.astype(np.int32), turn) > 0
        masks[number] = cover
    return torch.from_numpy(masks)


def _painted(item: Item, size: tuple[int, int], turn: Image.Transpose | None) -> NDArray[np.int16]:
    """A mask drawn from the outlines of objects: class k is k + 1, the smaller one in front."""
    frame = item.frame or (float(size[0]), float(size[1]))
    scale = min(1.0, MASK_SIDE / max(size))
    width, height = (max(1, round(side * scale)) for side in size)
    classes = np.zeros((height, width), dtype=np.int16)
    drawn = [(thing.outline, thing) for thing in item.things or () if thing.outline is not None]
    covers = [
        (outline.cover((0.0, 0.0, *frame), height, width) >= 0.5, thing) for outline, thing in drawn
    ]
    for cover, thing in sorted(covers, key=lambda each: (not each[1].ignored, -each[0].sum())):
        classes[cover] = VOID if thing.ignored else thing.label + 1
    return classes if turn is None else turned(classes.astype(np.int32), turn).astype(np.int16)


def turned_boxes(boxes_K4: torch.Tensor, turn: Image.Transpose | None) -> torch.Tensor:
    """Boxes in fractions of the image, turned as Pillow turns the image."""
    x0, y0, x1, y1 = boxes_K4.unbind(1)
    across, down = (1 - x1, 1 - x0), (1 - y1, 1 - y0)
    match turn:
        case Image.Transpose.FLIP_LEFT_RIGHT:
            (x0, x1) = across
        case Image.Transpose.ROTATE_180:
            (x0, x1), (y0, y1) = across, down
        case Image.Transpose.FLIP_TOP_BOTTOM:
            (y0, y1) = down
        case Image.Transpose.TRANSPOSE:
            x0, y0, x1, y1 = y0, x0, y1, x1
        case Image.Transpose.ROTATE_270:  # clockwise by 90 degrees: x' = 1 − y, y' = x
            (x0, x1), (y0, y1) = down, (x0, x1)
        case Image.Transpose.TRANSVERSE:
            (x0, x1), (y0, y1) = down, across
        case Image.Transpose.ROTATE_90:  # anticlockwise: x' = y, y' = 1 − x
            (x0, x1), (y0, y1) = (y0, y1), across
    return torch.stack([x0, y0, x1, y1], dim=1)
