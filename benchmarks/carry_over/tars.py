"""The images of the carry-over benchmark: a training and an evaluation tar from each data set."""

from __future__ import annotations

import tarfile
from collections import defaultdict
from pathlib import Path

HELD_OUT = 5000
"""Images of train.tar that training never sees; they are evaluated on, with all of val.tar."""


def make_tars(folder: Path, cache: Path) -> tuple[Path, Path]:
    """Writes train.tar and eval.tar of a data set, once; returns their paths.

    Of each class, the first images of train.tar by name are held out, equally many of each.

    Args:
        folder: holds train.tar and val.tar, each with a folder a class.
        cache: where to write.
    """
    to = cache / folder.name
    train, evaluation = to / "train.tar", to / "eval.tar"
    if not evaluation.exists():
        to.mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / "train.tar") as source:
            members = [member for member in source if member.isfile()]
            by_class = defaultdict(list)
            for member in sorted(members, key=lambda member: member.name):
                by_class[member.name.split("/")[0]].append(member)
            each = HELD_OUT // len(by_class)
            held = [member for images in by_class.values() for member in images[:each]]
            rest = [member for images in by_class.values() for member in images[each:]]
            _write(train, [(source, rest)])
            with tarfile.open(folder / "val.tar") as validation:
                files = [member for member in validation if member.isfile()]
                _write(evaluation, [(source, held), (validation, files)])
    return train, evaluation


def _write(path: Path, parts: list[tuple[tarfile.TarFile, list[tarfile.TarInfo]]]) -> None:
    """A tar of these files; those of a later source get other names."""
    unfinished = path.with_suffix(".part")
    with tarfile.open(unfinished, "w") as target:
        for index, (source, members) in enumerate(parts):
            for member in members:
                label, _, name = member.name.rpartition("/")
                renamed = tarfile.TarInfo(f"{label}/{index}-{name}")
                renamed.size = member.size
                target.addfile(renamed, source.extractfile(member))
    unfinished.rename(path)
