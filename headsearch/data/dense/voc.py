"""PASCAL VOC: `JPEGImages`, `Annotations` (XML boxes), `SegmentationClass`, `ImageSets`."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from headsearch.data.dense.annotated import Annotated, Item, MaskReading, Thing
from headsearch.data.dense.places import (
    by_stem,
    chosen,
    images_in,
    names_in_lists,
    read_text,
    subfolder,
)
from headsearch.errors import UserError
from headsearch.text import printable

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
"""The classes of the masks of VOC 2012, in its order."""
LARGEST_XML = 2**22


def read_voc(path: Path) -> Annotated | None:
    """Reads a VOC folder, or the one that holds it (`VOCdevkit`); None if there is none."""
    places = (path, *sorted(path.glob("VOC*")))
    path = next((place for place in places if (place / "JPEGImages").is_dir()), path)
    boxes, masks = path / "Annotations", path / "SegmentationClass"
    if not (path / "JPEGImages").is_dir() or not (boxes.is_dir() or masks.is_dir()):
        return None
    images = by_stem(path / "JPEGImages", images_in(path / "JPEGImages"))
    of_mask = by_stem(masks, images_in(masks)) if masks.is_dir() else {}
    sets = subfolder(path / "ImageSets", ("Segmentation",) if of_mask else ("Main",))
    lists = names_in_lists(sets) or {"all": list(of_mask or images)}
    numbers: dict[str, int] = {}
    splits = {
        split: [
            _item(image, of_mask.get(image.stem), boxes / f"{image.stem}.xml", numbers)
            for image in chosen(images, names)
        ]
        for split, names in lists.items()
    }
    names_of_boxes = tuple(sorted(numbers))  # so that two folders of a set number them alike
    number = {numbers[name]: index for index, name in enumerate(names_of_boxes)}
    splits = {
        split: [replace(item, things=_renumbered(item.things, number)) for item in items]
        for split, items in splits.items()
    }
    reading = None
    if of_mask:
        reading = MaskReading(VOC_CLASSES if set(numbers) <= set(VOC_CLASSES) else None)
    return Annotated("voc", splits, reading, names_of_boxes)


def _renumbered(
    things: tuple[Thing, ...] | None, number: Mapping[int, int]
) -> tuple[Thing, ...] | None:
    if things is None:
        return None
    return tuple(replace(thing, label=number[thing.label]) for thing in things)


def _item(image: Path, mask: Path | None, xml: Path, numbers: dict[str, int]) -> Item:
    if not xml.is_file():
        return Item(image, mask)
    things, frame = read_xml(xml, numbers)
    return Item(image, mask, things, frame)


def read_xml(
    path: Path, numbers: dict[str, int]
) -> tuple[tuple[Thing, ...], tuple[float, float] | None]:
    """The objects of one file, and the size of its image if it says so.

    VOC counts pixels from 1 and includes the last: xmin to xmax is [xmin − 1, xmax).

    Args:
        path: the file.
        numbers: of classes, by name; new ones are added.

    Raises:
        UserError: it is no such file.
    """
    text = read_text(path, LARGEST_XML)
    if "<!ENTITY" in text or "<!DOCTYPE" in text:
        raise UserError(f"{path}: declares a document type, which annotations have no use for")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: is no XML: {error}") from None
    things = []
    for found in root.iter("object"):
        name = printable((found.findtext("name") or "").strip()) or "object"
        box = found.find("bndbox")
        corners = [_number(path, box, key) for key in ("xmin", "ymin", "xmax", "ymax")]
        label = numbers.setdefault(name, len(numbers))
        x0, y0, x1, y1 = corners
        difficult = (found.findtext("difficult") or "0").strip() == "1"
        things.append(Thing((x0 - 1, y0 - 1, x1, y1), label, difficult))
    size = root.find("size")
    width, height = (_size(size, key) for key in ("width", "height"))
    return tuple(things), (width, height) if width > 0 and height > 0 else None


def _number(path: Path, box: ElementTree.Element | None, key: str) -> float:
    try:
        return float(box.findtext(key) or "") if box is not None else math.nan
    except ValueError:
        raise UserError(f"{path}: {key} of a box is no number") from None


def _size(size: ElementTree.Element | None, key: str) -> float:
    text = size.findtext(key) if size is not None else None
    try:
        return float(text or 0)
    except ValueError:
        return 0.0
