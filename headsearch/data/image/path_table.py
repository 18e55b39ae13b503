"""`PathTable`: a text file or CSV of image paths, with or without labels."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from headsearch.data.file_kinds import CLIPS, IMAGES, FileKind
from headsearch.data.image.byte_ranges import read_range
from headsearch.data.image.decode import BadImage
from headsearch.errors import UserError
from headsearch.text import counted, listing

LIST_SUFFIXES = (".txt", ".lst", ".csv", ".tsv")
"""The suffixes of files that may be lists of paths."""
PATH_COLUMNS = (
    "path", "file", "filename", "file_name", "filepath", "file_path", "image", "img", "image_path",
    "image_file", "image_id", "imageid", "id",
)  # fmt: skip
"""Names of the column of paths in a CSV with a header, in lower case."""
LABEL_COLUMNS = (
    "label", "labels", "class", "class_name", "classname", "cls", "target", "category",
    "label_name", "labelname", "class_id", "label_id", "predictionstring",
)  # fmt: skip
"""Names of the column of labels."""
BOXES = "predictionstring"
"""Kaggle's column for ImageNet: a class and a box, repeated. The class comes first."""

_SAMPLES = FileKind("sample", (*IMAGES.suffixes, *CLIPS.suffixes))
"""What a list may name the paths of."""
_ENDINGS = "|".join(re.escape(suffix) for suffix in _SAMPLES.suffixes)
_PATH_AND_LABEL = re.compile(rf"(.*(?:{_ENDINGS}))\s*[\s,;]\s*(\S.*)", re.IGNORECASE)


@dataclass(frozen=True)
class PathTable:
    """The rows of a list of images.

    Attributes:
        file: the list, as the user called it.
        paths: as they are written.
        labels: one for each path, empty where a row has none; None if no row has one.
        note: what was decided about its columns; may be empty.
    """

    file: str
    paths: list[str]
    labels: list[str] | None
    note: str = ""
    _by_name: dict[str, str | None] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def read(cls, file: str) -> PathTable:
        """Reads a list.

        Raises:
            UserError: it cannot be read, is empty, or its columns are not clear.
        """
        try:
            text = read_range(file, 0, None).decode("utf-8-sig")
        except BadImage as error:
            raise UserError(f"{file} cannot be read: {error}") from None
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise UserError(f"{file} is not text in UTF-8; expected a path a line") from None
        lines = [line for line in text.splitlines() if line.strip()]
        if not lines:
            raise UserError(f"{file} is empty: expected a path a line, with or without a label")
        if PurePosixPath(file).suffix.lower() in (".csv", ".tsv"):
            return _from_columns(file, list(csv.reader(lines, delimiter=_delimiter(lines[0]))))
        return _from_lines(file, lines)

    def labels_of(self, files: Sequence[str]) -> list[str | None]:
        """The label of each image: by its name, the end of its path, or its name without suffix.

        Raises:
            UserError: the list has no labels, or two for one name.
        """
        if self.labels is None:
            raise UserError(
                f"{self.file} has no labels{f' ({self.note})' if self.note else ''}: "
                "expected an image and its label a line"
            )
        if not self._by_name:
            self._fill()
        return [self._label(file) for file in files]

    def _fill(self) -> None:
        assert self.labels is not None
        for path, label in zip(self.paths, self.labels, strict=True):
            parts = PurePosixPath(path)
            if self._by_name.setdefault(str(parts), label) != label:
                raise UserError(
                    f"{self.file} gives {path!r} several labels ({self._by_name[path]}, "
                    f"{label}); an image has one"
                )
            for shorter in {parts.name, parts.stem if _SAMPLES.includes(path) else parts.name}:
                # A name that several folders have decides nothing.
                if shorter != str(parts) and self._by_name.setdefault(shorter, label) != label:
                    self._by_name[shorter] = None

    def _label(self, file: str) -> str | None:
        path = PurePosixPath(file)
        for name in (str(path), path.name, path.stem):
            if label := self._by_name.get(name):
                return label
        return None


def _from_lines(file: str, lines: list[str]) -> PathTable:
    """A path a line, or a path and a label with a space, comma or tab between them."""
    rows = [_split_line(line.strip()) for line in lines]
    labels = [label for _, label in rows]
    return PathTable(file, [path for path, _ in rows], labels if any(labels) else None)


def _split_line(line: str) -> tuple[str, str]:
    if _SAMPLES.includes(line):
        return line, ""
    found = _PATH_AND_LABEL.fullmatch(line)
    if found is None:  # the name of an image without its suffix
        path, *label = re.split(r"[\s,;]+", line, maxsplit=1)
        return path, label[0] if label else ""
    return found[1], found[2].strip()


def _delimiter(line: str) -> str:
    return max(",\t;", key=line.count)


def _from_columns(file: str, rows: list[list[str]]) -> PathTable:
    first = [cell.strip() for cell in rows[0]]
    lower = [cell.lower() for cell in first]
    named = {*lower} & {*PATH_COLUMNS, *LABEL_COLUMNS}
    below = rows[1] if len(rows) > 1 else []
    if not any(map(_SAMPLES.includes, first)) and (named or any(map(_SAMPLES.includes, below))):
        place, label = _named_columns(file, first, lower, below)
        rows = rows[1:]
        if not rows:
            raise UserError(f"{file} has a header and no rows")
        boxes = label is not None and lower[label] == BOXES
    else:
        place = next((i for i, cell in enumerate(first) if _SAMPLES.includes(cell)), 0)
        if len(first) > 2:
            raise UserError(
                f"{file} has {counted(len(first), 'column')} and no header; expected a path, or a "
                "path and a label, or a header such as path,label"
            )
        label, boxes = (1 - place if len(first) == 2 else None), False
    width = max(place, label or 0) + 1
    for number, row in enumerate(rows, start=1 + (rows[0] is not first and named != set())):
        if len(row) < width:
            raise UserError(f"{file}: row {number} has {counted(len(row), 'column')}, not {width}")
    labels = None if label is None else [row[label].strip() for row in rows]
    if labels is not None and boxes:
        labels = [each.partition(" ")[0] for each in labels]
    note = ""
    if label is None and len(first) > 1:
        note = f"none of its columns {', '.join(first)} is called like a label"
    return PathTable(file, [row[place].strip() for row in rows], labels, note)


def _named_columns(
    file: str, names: list[str], lower: list[str], below: list[str]
) -> tuple[int, int | None]:
    """The columns of the paths and of the labels in a table with a header."""
    paths = [i for i, cell in enumerate(below) if _SAMPLES.includes(cell)]
    if len(paths) != 1:
        paths = [i for i, name in enumerate(lower) if name in PATH_COLUMNS]
    labels = [i for i, name in enumerate(lower) if name in LABEL_COLUMNS]
    for kind, found, wanted in (("paths", paths, PATH_COLUMNS), ("labels", labels, LABEL_COLUMNS)):
        if len(found) > 1 or (kind == "paths" and not found):
            raise UserError(
                f"{file}: which column holds the {kind} is not clear: the columns are "
                f"{listing(names)}, and exactly one must be called one of {', '.join(wanted)}"
            )
    return paths[0], labels[0] if labels else None
