"""COCO: `annotations/instances_*.json` with boxes, polygons, run lengths and crowds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headsearch.data.dense.annotated import Annotated, Item, MaskReading, Thing
from headsearch.data.dense.folders import masks_beside, named_classes
from headsearch.data.dense.outlines import BadOutline, Outline, outline_of
from headsearch.data.dense.places import below, read_text, split_of, subfolder
from headsearch.data.image.layouts import IMAGE_FOLDERS, split_word
from headsearch.errors import UserError
from headsearch.text import printable

ENOUGH_BOXES = 20
"""A class with fewer boxes in the training set gives no score that means something."""
SUPERCATEGORY = "supercategory"
"""The value of `--dense-classes` that takes COCO's groups of classes as the classes."""


def read_coco(path: Path, classes: str | None = None) -> Annotated | None:
    """Reads a folder with `annotations/*.json`, or one such file; None if there is none.

    Args:
        path: the folder or file.
        classes: `SUPERCATEGORY` to take groups of classes as the classes.
    """
    folder = path / "annotations" if (path / "annotations").is_dir() else path
    files = sorted(folder.glob("*.json")) if path.is_dir() else [path]
    named = [file for file in files if file.name.startswith("instances")]
    files = [file for file in named or files if file.suffix == ".json"]
    if not files:
        return None
    root = path if path.is_dir() else path.parent.parent
    loaded = {file: _load(file) for file in files}
    sets = {file: entries for file, entries in loaded.items() if entries is not None}
    if not sets:
        return None
    names, number_of, note = _classes(sets, classes)
    splits: dict[str, list[Item]] = {}
    for file, entries in sets.items():
        split = next((s for part in file.stem.split("_") if (s := split_of(part))), None) or "all"
        splits.setdefault(split, []).extend(_items(root, file, entries, number_of))
    masked = any(item.mask for items in splits.values() for item in items)
    reading = named_classes(root) if masked else MaskReading(("background", *names))
    return Annotated("coco", splits, reading, names, note)


def _load(file: Path) -> dict[str, Any] | None:
    """The content of a file; None if it is no file of objects.

    Raises:
        UserError: it is no JSON, or something in it is not as COCO has it.
    """
    try:
        content = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: is no JSON that can be read: {error}") from None
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in keys):
        return None
    for key in keys:
        ids = []
        for entry in content[key]:
            if not isinstance(entry, dict) or not isinstance(entry.get("id"), int):
                raise UserError(f"{file}: one of its {key} has no whole number as its id")
            ids.append(entry["id"])
        twice = next((each for each, count in Counter(ids).items() if count > 1), None)
        if twice is not None:
            raise UserError(f"{file}: two of its {key} have the id {twice}")
    return content


def _classes(
    sets: Mapping[Path, Mapping[str, Any]], wanted: str | None
) -> tuple[tuple[str, ...], dict[int, int], tuple[str, ...]]:
    """Names of classes, their numbers by category id (ids have gaps), and what was decided."""
    categories: dict[int, dict[str, Any]] = {}
    for file, entries in sets.items():
        for entry in entries["categories"]:
            known = categories.setdefault(entry["id"], entry)
            if known.get("name") != entry.get("name"):
                raise UserError(f"{file}: category {entry['id']} has another name in another file")
    ordered = [categories[key] for key in sorted(categories)]
    groups = [printable(str(each.get("supercategory") or each.get("name"))) for each in ordered]
    names = [printable(str(each.get("name", each["id"]))) for each in ordered]
    boxes = Counter(
        each.get("category_id") for entries in sets.values() for each in entries["annotations"]
    )
    few = sum(0 < boxes[each["id"]] < 2 * ENOUGH_BOXES for each in ordered)
    note: tuple[str, ...] = ()
    if wanted is None and 1 < len(set(groups)) < len(names) and few > len(names) / 3:
        wanted = SUPERCATEGORY
        note = (
            f"{few} of {len(names)} categories have under {2 * ENOUGH_BOXES} boxes, so the classes "
            f"are the {len(set(groups))} supercategories",
        )
    used = groups if wanted == SUPERCATEGORY else names
    distinct = tuple(dict.fromkeys(used))
    number = {name: index for index, name in enumerate(distinct)}
    return distinct, {e["id"]: number[n] for e, n in zip(ordered, used, strict=True)}, note


def _items(
    root: Path, file: Path, entries: Mapping[str, Any], number_of: Mapping[int, int]
) -> list[Item]:
    things: dict[int, list[Thing]] = {image["id"]: [] for image in entries["images"]}
    sizes = {image["id"]: _size(file, image) for image in entries["images"]}
    for entry in entries["annotations"]:
        image = entry.get("image_id")
        if image not in things:
            raise UserError(
                f"{file}: annotation {entry['id']} is of image {image}, which is not there"
            )
        if entry.get("category_id") not in number_of:
            raise UserError(
                f"{file}: annotation {entry['id']} is of category {entry.get('category_id')}, "
                "which is not there"
            )
        outline = _outline(file, entry, sizes[image])
        crowd = bool(entry.get("iscrowd", 0))
        box = _box(file, entry)
        things[image].append(Thing(box, number_of[entry["category_id"]], crowd, outline))
    images = sorted(entries["images"], key=lambda image: int(image["id"]))
    folders = _folders_of_images(root, file)
    masks = _masks(root)
    items = []
    for image in images:
        name = image.get("file_name")
        places = [below(folder, name, file) for folder in folders]
        found = next((place for place in places if place.is_file()), places[0])
        size = sizes[image["id"]]
        frame = None if size is None else (float(size[0]), float(size[1]))
        of_image = tuple(things[image["id"]])
        items.append(Item(found, _mask_of(masks, found, root), of_image, frame))
    return items


def _size(file: Path, image: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height; None if they are not given."""
    width, height = image.get("width"), image.get("height")
    if width is None or height is None:
        return None
    if not all(isinstance(side, int) and 0 < side <= 2**16 for side in (width, height)):
        raise UserError(f"{file}: image {image['id']} has the size {width}×{height}")
    return width, height


def _box(file: Path, entry: Mapping[str, Any]) -> tuple[float, float, float, float]:
    box = entry.get("bbox")
    numbers = isinstance(box, Sequence) and all(
        isinstance(n, int | float) and not isinstance(n, bool) for n in box
    )
    if not isinstance(box, Sequence) or not numbers or len(box) != 4:
        raise UserError(f"{file}: annotation {entry['id']} has no box of four numbers")
    x, y, width, height = map(float, box)
    return x, y, x + width, y + height


def _outline(file: Path, entry: Mapping[str, Any], size: tuple[int, int] | None) -> Outline | None:
    if size is None:
        return None
    try:
        return outline_of(entry.get("segmentation"), size[1], size[0])
    except (BadOutline, OverflowError) as error:
        raise UserError(f"{file}: annotation {entry['id']}: {error}") from None


def _folders_of_images(root: Path, file: Path) -> list[Path]:
    """Where the images of a file may lie: images/val2017, val2017, images, the folder itself."""
    split = file.stem.removeprefix("instances_")
    images = subfolder(root, IMAGE_FOLDERS)
    places = [root / split, root]
    if images is not None:
        places = [images / split, images, *places]
    if split_word(split) is None:
        places.append(file.parent)
    return [place for place in places if place.is_dir()] or [root]


def _masks(root: Path) -> dict[str, Path]:
    """Semantic masks that lie beside the JSON files, by path without suffix."""
    images = subfolder(root, IMAGE_FOLDERS)
    return masks_beside(root, images) if images is not None else {}


def _mask_of(masks: Mapping[str, Path], image: Path, root: Path) -> Path | None:
    images = subfolder(root, IMAGE_FOLDERS)
    if not masks or images is None or not image.is_relative_to(images):
        return None
    return masks.get(image.relative_to(images).with_suffix("").as_posix())
