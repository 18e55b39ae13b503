"""What the names of folders and archives say: whether they are classes, splits or shards.

A split is a part of a set with a purpose (`train`, `val2017`); a shard is a part of any kind, made
so that no folder or archive is too large (`00000`, `part-0012`). Neither is a class.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

Kind = Literal["classes", "splits", "shards", "unclear"]

TRAIN_FOLDERS = ("train", "training")
"""Usual names of the subfolder with the training split."""
EVAL_FOLDERS = ("val", "valid", "validation", "eval", "evaluation", "test")
"""Usual names of the subfolder with the evaluation split, in the order in which they are tried."""
OTHER_SPLITS = ("unlabeled", "unlabelled", "extra")
"""Parts of a set that are neither, beside the other two."""

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "photos", "rgb", "leftimg8bit")
"""Usual names, in lower case, of the folder of images beside folders of their annotations."""
ANNOTATION_FOLDERS = (
    "masks", "mask", "annotations", "annotation", "labels", "gt", "gtfine", "segmentation",
    "segmentationclass", "segmentationobject", "instances", "depth", "disparity",
)  # fmt: skip
"""Usual names of folders whose images are masks or maps of other images."""

_WORDS = "|".join(sorted((*TRAIN_FOLDERS, *EVAL_FOLDERS, *OTHER_SPLITS), key=len, reverse=True))
_SPLIT = re.compile(rf"({_WORDS})(?:[-_ ]?(?:dev|set|images))?[-_ ]?(?:\d{{4}})?", re.IGNORECASE)
_NUMBERED = re.compile(r"(.*?)[-_. ]?(\d+)")
_SPLIT_IN_NAME = re.compile(rf"(?:^|[-_.])({_WORDS})(?=$|[-_.\d])", re.IGNORECASE)
_SHARD_WORDS = {"shard", "part", "chunk", "batch", "sa", "img2dataset", "tar", "folder", "dir"}
_WORDNET = re.compile(r"n\d{8}")
_DIGITS_OF_A_SHARD = 4
"""Folders whose names are numbers of fewer digits are taken as classes."""


def split_word(name: str) -> str | None:
    """The word that makes a folder's name that of a split, in lower case; None if it is none.

    `train`, `Val`, `train2017` (COCO), `test-dev2015` and `unlabeled2017` are names of splits.
    """
    found = _SPLIT.fullmatch(name)
    return found[1].lower() if found else None


def annotation_folders(names: Collection[str]) -> set[str]:
    """Which of some folders side by side hold annotations; none unless the others hold images."""
    found = {name for name in names if name.lower() in ANNOTATION_FOLDERS}
    others = {name.lower() for name in names} - {name.lower() for name in found}
    return found if others and others <= set(IMAGE_FOLDERS) else set()


def split_folder(path: Path, words: Sequence[str]) -> Path | None:
    """The first subfolder of `path` that is named like a split by one of these words.

    A name that is the word itself comes before one with a year, and a later year before an earlier.
    """
    exact = next((path / word for word in words if (path / word).is_dir()), None)
    if exact is not None or not path.is_dir():
        return exact
    folders = sorted((f for f in path.iterdir() if f.is_dir()), reverse=True)
    ranked = [f for word in words for f in folders if split_word(f.name) == word]
    return ranked[0] if ranked else None


def split_in(name: str) -> str | None:
    """The word of a split within the name of an archive: `val` of `imagenet-val-0003`."""
    found = _SPLIT_IN_NAME.search(name)
    return found[1].lower() if found else None


def of_split(names: Sequence[str], words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Which of some files belong to the splits of these words, and which to others.

    Returns:
        The files to use, and those that are left out. All are used if they name no splits, or none
        of these.
    """
    found = {name: split_in(PurePosixPath(name).name.partition(".")[0]) for name in names}
    own = [name for name in names if found[name] in words]
    if not own or None in found.values():
        return list(names), []
    return own, [name for name in names if found[name] not in words]


def kind_of_folders(files: Sequence[str], folders: Sequence[str]) -> Kind:
    """What the folders of images are.

    Folders with a number for a name are shards if the numbers of the files in them continue from
    one folder to the next (img2dataset: `00001/000010000.jpg`; FFHQ: `01000/01000.png`). Where each
    folder counts from the start they are classes (GTSRB).

    Args:
        files: relative names with / between parts.
        folders: for each file the folder that may be its class.
    """
    names = sorted(set(folders))
    if len(names) < 2:
        return "classes"
    if all(map(split_word, names)):
        return "splits"
    numbered = [_NUMBERED.fullmatch(name) for name in names]
    words = {found[1].lower() if found else None for found in numbered}
    if len(words) > 1 or None in words:
        return "classes"
    word = str(words.pop())
    if word in _SHARD_WORDS or split_word(word):
        return "shards"
    digits = {len(found[2]) for found in numbered if found}
    if word or len(digits) > 1 or digits.pop() < _DIGITS_OF_A_SHARD:
        return "classes"
    return _by_numbers_of_files(files, folders, names)


def _by_numbers_of_files(files: Sequence[str], folders: Sequence[str], names: list[str]) -> Kind:
    ends: dict[str, tuple[int, int]] = {}
    for file, folder in zip(files, folders, strict=True):
        found = re.search(r"(\d+)$", PurePosixPath(file).name.partition(".")[0])
        if found is None:
            dense = int(names[-1]) - int(names[0]) + 1 == len(names)
            return "unclear" if dense and len(names[0]) > _DIGITS_OF_A_SHARD else "classes"
        number = int(found[1])
        low, high = ends.get(folder, (number, number))
        ends[folder] = (min(low, number), max(high, number))
    in_turn = [ends[name] for name in names]
    continued = all(a[1] < b[0] for a, b in itertools.pairwise(in_turn))
    return "shards" if continued else "classes"


def kind_of_archives(names: Sequence[str]) -> Kind:
    """What several archives are, by their names without suffix.

    Numbered ones (`00000`, `imagenet-train-0012`) are shards, but for WordNet's numbers of
    classes (`n01440764`).
    """
    distinct = set(names)
    if all(map(_WORDNET.fullmatch, distinct)) or len(distinct) < 2:
        return "classes"
    if all(map(split_word, distinct)):
        return "splits"
    numbered = [_NUMBERED.fullmatch(name) for name in distinct]
    words = {found[1] if found else None for found in numbered}
    splits = all(split_in(name) for name in distinct)
    return "shards" if splits or (len(words) == 1 and None not in words) else "classes"
