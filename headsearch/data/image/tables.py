"""Finds tables of images: data sets that Hugging Face's `datasets` saved to disk, and parquet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from headsearch.data.image.layouts import EVAL_FOLDERS, TRAIN_FOLDERS, split_in, split_word
from headsearch.data.image.readers import files_below
from headsearch.data.image.suffixes import is_image
from headsearch.errors import UserError, unknown

SUFFIX = ".parquet"


@dataclass(frozen=True)
class Table:
    """Where a table lies.

    Attributes:
        name: what the user called it.
        saved: the folder that `save_to_disk` wrote; None for parquet.
        parquet: the files of a table in parquet.
        left_out: the names of splits that are not read.
    """

    name: str
    saved: Path | None
    parquet: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def find_table(spec: str, role: str) -> Table | None:
    """The table that a spec names: PATH or PATH#SPLIT; None if it names something else.

    Args:
        spec: the value of `--data` or `--eval-data`.
        role: "train" or "eval", which decides the split where none is named.

    Raises:
        UserError: the table has no such split.
    """
    path, _, split = (spec, "", "") if Path(spec).expanduser().exists() else spec.partition("#")
    place = Path(path).expanduser()
    if place.suffix.lower() == SUFFIX and place.is_file():
        return Table(spec, None, (str(place),))
    if not place.is_dir():
        return None
    if _is_saved(place):
        return Table(spec, place)
    splits = splits_of(place)
    if not splits:
        return None
    if split and split not in splits:
        raise unknown(f"split of {path}", split, splits)
    words = [split] if split else [*(TRAIN_FOLDERS if role == "train" else EVAL_FOLDERS)]
    chosen = next((s for word in words for s in splits if word in (s, split_word(s))), None)
    if chosen is None:
        chosen = next(iter(splits))
    left_out = tuple(name for name in splits if name != chosen)
    if not splits[chosen]:  # saved as a dict of data sets, each in a folder of its name
        return Table(spec, place / chosen, left_out=left_out)
    return Table(spec, None, tuple(splits[chosen]), left_out)


def _is_saved(folder: Path) -> bool:
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


def splits_of(folder: Path) -> dict[str, list[str]]:
    """The splits of a folder with a table, and the parquet files of each.

    A table without splits has one, called "". Empty if the folder holds images, archives or no
    table; a data set saved to disk has no parquet files.

    Raises:
        UserError: the list of splits that was saved cannot be read.
    """
    listing = folder / "dataset_dict.json"
    if listing.is_file():
        try:
            names = json.loads(listing.read_text(encoding="utf-8"))["splits"]
            return {str(name): [] for name in names if _is_saved(folder / str(name))}
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{listing} does not list the splits of a data set") from None
    found: list[str] = []
    for file in files_below(folder):
        if is_image(file) or file.endswith(".tar"):
            return {}  # parquet beside them holds what img2dataset knows of the images
        if file.lower().endswith(SUFFIX):
            found.append(file)
    splits: dict[str, list[str]] = {}
    for file in sorted(found):
        splits.setdefault(_split(PurePosixPath(file)), []).append(str(folder / file))
    if "" in splits and len(splits) > 1:  # some files are of no split, so the names mean nothing
        return {"": [str(folder / file) for file in sorted(found)]}
    return splits


def _split(file: PurePosixPath) -> str:
    """The split of a parquet file, by its name (`train-00000-of-00002`) or its folder."""
    folders: Sequence[str] = file.parts[:-1]
    return split_in(file.stem) or next(filter(None, map(split_word, folders)), "")


def table_splits(folder: Path) -> tuple[str, str] | None:
    """The training and the evaluation split of a folder with a table; None without both."""
    splits = splits_of(folder)
    train = next((s for word in TRAIN_FOLDERS for s in splits if split_word(s) == word), None)
    held = next((s for word in EVAL_FOLDERS for s in splits if split_word(s) == word), None)
    return (train, held) if train and held else None
