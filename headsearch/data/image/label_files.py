"""Labels from files beside images, as in WebDataset: `0001.jpg` with `0001.cls` or `.json`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from headsearch.data.image.decode import BadImage
from headsearch.text import counted

SUFFIXES = (".cls", ".json")
"""The suffixes of label files, the first one first."""
KEYS = ("label", "cls", "class")
"""The keys under which a JSON object may hold the label."""
LARGEST = 2**20
"""The largest label file in bytes."""


@dataclass(frozen=True)
class LabelFiles:
    """What was found beside the images.

    Attributes:
        labels: the label of every image; None if not all of them have one.
        used: the names of the files that hold the labels.
        note: what was found, in one line; empty if there are no such files.
    """

    labels: list[str] | None = None
    used: frozenset[str] = frozenset()
    note: str = ""


def labels_beside(
    name: str, images: Sequence[str], others: Sequence[str], read: Callable[[str], bytes]
) -> LabelFiles:
    """The labels of images from the files beside them with the same name up to the first dot.

    Args:
        name: what the user called the source.
        images: relative names of the images.
        others: relative names of the other files.
        read: returns the bytes of one of the others; raises BadImage or OSError.
    """
    for suffix in SUFFIXES:
        beside = {key(file): file for file in others if _suffix(file) == suffix}
        if not beside:
            continue
        labels = []
        for image in images:
            file = beside.get(key(image))
            label = _label(suffix, file, read) if file is not None else None
            if label is None:
                files = counted(len(beside), f"{suffix} file")
                note = (
                    f"{name}: labels are not read from its {files}, because {image} has no label "
                    "there"
                )
                return LabelFiles(note=note)
            labels.append(label)
        note = f"{name}: labels are read from files *{suffix} beside the images"
        return LabelFiles(labels, frozenset(beside.values()), note)
    return LabelFiles()


def in_order(labels: Sequence[str]) -> tuple[str, ...]:
    """The classes of these labels, sorted; as numbers if all are."""
    numbers = all(label.isascii() and label.isdigit() for label in labels)
    return tuple(sorted(set(labels), key=(lambda label: (int(label), label)) if numbers else None))


def _label(suffix: str, file: str, read: Callable[[str], bytes]) -> str | None:
    try:
        text = read(file).decode().strip()
        value = json.loads(text) if suffix == ".json" else text
    except (BadImage, OSError, ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        value = next((value[key] for key in KEYS if key in value), None)
    usable = isinstance(value, str | int) and not isinstance(value, bool) and value != ""
    return str(value) if usable else None


def key(file: str) -> str:
    """What files that belong together share: the path up to the first dot of the name."""
    path = PurePosixPath(file)
    return str(path.parent / path.name.partition(".")[0])


def _suffix(file: str) -> str:
    return PurePosixPath(file).suffix.lower()
