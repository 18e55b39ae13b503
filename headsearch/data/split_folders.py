"""Which folders `--data` and `--eval-data` mean: splits of a folder, folders inside others."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from headsearch.data.factory import BUILT_IN
from headsearch.data.file_kinds import IMAGES, FileKind
from headsearch.data.image.brace_lists import is_pattern
from headsearch.data.image.byte_ranges import is_url
from headsearch.data.image.layouts import (
    EVAL_FOLDERS,
    TRAIN_FOLDERS,
    annotation_folders,
    split_folder,
    split_word,
)
from headsearch.data.image.readers import files_below, imagenet_solution
from headsearch.data.image.source import Source
from headsearch.data.image.suffixes import is_hidden
from headsearch.data.image.tables import table_splits
from headsearch.data.image.timm_readers import PREFIXES

Spec = str | Source
"""The value of `--data` or `--eval-data`, or a source that is open already."""


def resolve_splits(
    data: Spec, eval_data: Spec | None, notes: list[str], kind: FileKind = IMAGES
) -> tuple[Spec, Spec | None]:
    """Resolves folders with one subfolder for each split, and the built-in evaluation images.

    Args:
        data: the training images.
        eval_data: the evaluation images; None to find them, or to hold them out.
        notes: gets what was decided, one line each.
        kind: which files are samples.
    """
    if data == BUILT_IN:
        return data, eval_data or BUILT_IN
    root = folder_of(data)
    if root is not None and (splits := table_splits(root)) is not None:
        data = f"{data}#{splits[0]}"
        if eval_data is None or same(str(root), eval_data):
            eval_data = f"{root}#{splits[1]}"
            notes.append(f"{root}: trains on {splits[0]}, evaluates on {splits[1]}")
    elif root is not None:
        data, eval_data = _within(root, data, eval_data, notes, kind)
    of_eval = None if eval_data is None else folder_of(eval_data)
    if of_eval is not None and _has_splits(of_eval, kind):
        eval_data = str(split_folder(of_eval, EVAL_FOLDERS) or eval_data)
    return data, eval_data


def folder_of(spec: Spec) -> Path | None:
    """The folder that a spec names; None if it names something else."""
    if isinstance(spec, Source) or spec == BUILT_IN or has_prefix(spec):
        return None
    path = Path(spec).expanduser()
    return path if path.is_dir() else None


def has_prefix(spec: str) -> bool:
    """Whether a spec names one of timm's datasets."""
    return spec.partition("/")[0].lower() in PREFIXES


def same(data: Spec, eval_data: Spec) -> bool:
    """Whether both name the same images.

    A timm dataset without a split after # does not: --data and --eval-data read different splits.
    """
    if isinstance(data, Source) or isinstance(eval_data, Source):
        return data is eval_data
    if data == BUILT_IN or eval_data == BUILT_IN:
        return False
    if has_prefix(data) or has_prefix(eval_data):
        return data == eval_data and "#" in data
    if is_url(data) or is_pattern(data):
        return data == eval_data
    return Path(data).resolve() == Path(eval_data).resolve()


def inside(inner: Spec, outer: Spec) -> Path | None:
    """The folder `inner` if it lies inside the folder `outer`; else None."""
    folder, around = folder_of(inner), folder_of(outer)
    if folder is None or around is None or around.resolve() not in folder.resolve().parents:
        return None
    return folder


def _within(
    root: Path, data: Spec, eval_data: Spec | None, notes: list[str], kind: FileKind
) -> tuple[Spec, Spec | None]:
    """The training and evaluation images of a folder that may hold splits."""
    root = _without_wrappers(root, kind)
    train = split_folder(root, TRAIN_FOLDERS)
    found = [f for name in EVAL_FOLDERS if (f := split_folder(root, (name,))) is not None]
    if train is None or not _has_splits(root, kind):
        labelled = next((folder for folder in found if _class_count(folder, kind) > 1), None)
        if eval_data is None and labelled is not None and _class_count(root, kind) > 1 + len(found):
            eval_data = str(labelled)
            notes.append(f"{data}: evaluates on {labelled.name}, which is not one of its classes")
        return data, eval_data
    if eval_data is None and found:
        # Labels of the training images are worth more than a split without labels.
        unlabelled = _class_count(train, kind) < 2
        usable = (folder for folder in found if unlabelled or _is_labelled(folder, kind))
        chosen = next(usable, None)
        if chosen is not None:
            eval_data = str(chosen)
            notes.append(f"{data}: trains on {train.name}, evaluates on {chosen.name}")
        else:
            notes.append(
                f"{data}: {found[0].name} has no labels and {train.name} has, so queries are held "
                f"out of {train.name}; name {found[0].name} as --eval-data to use it all the same"
            )
    return str(train), eval_data


def _has_splits(root: Path, kind: FileKind) -> bool:
    """Whether the subfolders of a folder that are named like splits are splits.

    They are if there is one for training and one for evaluation, or if no other subfolder holds
    images. Otherwise they may be classes: there are images of trains.
    """
    names = {f.name: word for f in root.iterdir() if f.is_dir() and (word := split_word(f.name))}
    words = set(names.values())
    both = bool(words & set(TRAIN_FOLDERS)) and bool(words & set(EVAL_FOLDERS))
    return bool(names) and (both or all(f.name in names for f in _folders_of_images(root, kind)))


def _without_wrappers(root: Path, kind: FileKind) -> Path:
    """The folder of splits that a folder holds and nothing else of images, at any depth.

    Kaggle's ImageNet has its splits in ILSVRC/Data/CLS-LOC, beside folders of boxes and lists.
    """
    folder = root
    while not _has_splits(folder, kind):
        if any(kind.includes(path.name) for path in folder.iterdir()):
            return root
        below = list(itertools.islice(_folders_of_images(folder, kind), 2))
        if len(below) != 1:
            return root
        folder = below[0]
    return folder


def _is_labelled(folder: Path, kind: FileKind) -> bool:
    return _class_count(folder, kind) > 1 or imagenet_solution(folder) is not None


def _class_count(folder: Path, kind: FileKind) -> int:
    """The number of classes below a folder, as far as its subfolders tell; 0 without classes."""
    if any(kind.includes(path.name) and not is_hidden(path.name) for path in folder.iterdir()):
        return 0
    below = list(_folders_of_images(folder, kind))
    return _class_count(below[0], kind) or 1 if len(below) == 1 else len(below)


def _folders_of_images(root: Path, kind: FileKind) -> Iterator[Path]:
    """The subfolders of a folder that hold images, at any depth; not those of annotations."""
    visible = sorted(f for f in root.iterdir() if f.is_dir() and not is_hidden(f.name))
    held = [folder for folder in visible if any(map(kind.includes, files_below(folder)))]
    annotations = annotation_folders({folder.name for folder in held})
    yield from (folder for folder in held if folder.name not in annotations)
