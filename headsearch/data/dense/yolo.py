"""YOLO: `labels/**/NAME.txt` beside `images/**/NAME.jpg`: a class and a box or polygon a line."""

from __future__ import annotations

from pathlib import Path

import yaml

from headsearch.data.dense.annotated import Annotated, Item, Thing
from headsearch.data.dense.mask_files import MOST_CLASSES
from headsearch.data.dense.outlines import BadOutline, Polygons
from headsearch.data.dense.places import by_stem, images_in, read_text, split_of, subfolder
from headsearch.data.image.layouts import IMAGE_FOLDERS
from headsearch.errors import UserError
from headsearch.text import printable


def read_yolo(path: Path) -> Annotated | None:
    """Reads a YOLO folder; None if there are no label files."""
    splits: dict[str, list[Item]] = {}
    largest = -1
    for root, split in _roots(path):
        images, labels = subfolder(root, IMAGE_FOLDERS), root / "labels"
        if images is None or not labels.is_dir() or not any(labels.rglob("*.txt")):
            continue
        for stem, image in by_stem(images, images_in(images)).items():
            file = labels / f"{stem}.txt"
            things = read_labels(file) if file.is_file() else ()
            largest = max([largest, *(thing.label for thing in things)])
            first, slash, _ = stem.partition("/")
            part = split or (split_of(first) if slash else None) or "all"
            splits.setdefault(part, []).append(Item(image, None, things, (1.0, 1.0)))
    if not splits:
        return None
    names = _names(path) or tuple(map(str, range(largest + 1)))
    if largest >= len(names):
        raise UserError(
            f"{path}: a label file has class {largest}, but only {len(names)} classes are named"
        )
    return Annotated("yolo", splits, None, names)


def _roots(path: Path) -> list[tuple[Path, str | None]]:
    """The folder itself, or its folders of splits (`train/images`, `train/labels`)."""
    inner = [(p, split_of(p.name)) for p in sorted(path.iterdir()) if p.is_dir()]
    return [(path, None), *((p, split) for p, split in inner if split is not None)]


def read_labels(path: Path) -> tuple[Thing, ...]:
    """The objects of one file: lines `class cx cy w h`, or `class x y x y x y …` for a polygon.

    All numbers are shares of the image's width and height. An empty file has no objects.

    Raises:
        UserError: a line is neither.
    """
    things = []
    for number, line in enumerate(read_text(path, 2**24).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            label, values = int(words[0]), [float(word) for word in words[1:]]
        except ValueError:
            raise UserError(f"{path}:{number}: something other than numbers") from None
        if label < 0:
            raise UserError(f"{path}:{number}: the class {label}")
        if len(values) == 4:
            x, y, width, height = values
            box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            things.append(Thing(box, label))
            continue
        try:
            outline = Polygons((tuple(values),))
        except BadOutline as error:
            raise UserError(f"{path}:{number}: {error}") from None
        xs, ys = values[0::2], values[1::2]
        things.append(Thing((min(xs), min(ys), max(xs), max(ys)), label, False, outline))
    return tuple(things)


def _names(path: Path) -> tuple[str, ...]:
    """The names of classes in `data.yaml` (or another .yaml) or `classes.txt`; else empty."""
    for file in sorted(path.glob("*.y*ml")):
        try:
            content = yaml.safe_load(read_text(file, 2**20))
        except (yaml.YAMLError, RecursionError) as error:
            raise UserError(f"{file}: is no YAML: {str(error).splitlines()[0]}") from None
        names = content.get("names") if isinstance(content, dict) else None
        if isinstance(names, list):
            names = dict(enumerate(names))
        if isinstance(names, dict) and _plain(names):
            return tuple(printable(str(names.get(i, i))) for i in range(max(names) + 1))
    if (path / "classes.txt").is_file():
        lines = read_text(path / "classes.txt", 2**20).splitlines()
        return tuple(printable(line.strip()) for line in lines if line.strip())
    return ()


def _plain(names: dict[object, object]) -> bool:
    """Whether these are names by number: texts, not the nested lists of a YAML bomb."""
    keys = all(isinstance(key, int) and 0 <= key < MOST_CLASSES for key in names)
    return bool(names) and keys and all(isinstance(n, str | int | float) for n in names.values())
