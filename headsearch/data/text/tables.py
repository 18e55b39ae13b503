"""`read_table`: the texts and labels in a file of lines, a CSV or TSV table, or JSON."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from headsearch.errors import UserError, unknown
from headsearch.text import listing

LINES, COLUMNS, RECORDS = (".txt",), {".csv": ",", ".tsv": "\t"}, (".jsonl", ".ndjson", ".json")
TABLES = (*LINES, *COLUMNS, *RECORDS)
"""Suffixes of the files that hold many texts."""

TEXT_COLUMNS = ("text", "sentence", "content", "utterance", "query", "question", "review", "title")
LABEL_COLUMNS = ("label", "labels", "class", "category", "intent", "target", "sentiment", "topic")
"""Names of columns that are taken where none is named, the first of them that is there."""

UTF_16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Rows:
    """The rows of a file.

    Attributes:
        texts: one of each row. Bytes that are no UTF-8 are lone surrogates in them.
        labels: likewise; None where there are none.
        lines: the line in the file of each.
        notes: decisions, one line each.
        others: files that are not called like texts.
    """

    texts: Sequence[str]
    labels: Sequence[str] | None
    lines: Sequence[int]
    notes: tuple[str, ...] = ()
    others: Sequence[str] = ()


def read_table(path: Path, text_column: str | None, label_column: str | None) -> Rows:
    """Reads the texts of a file, and their labels if it has a column of them.

    Args:
        path: a file with a suffix in `TABLES`.
        text_column, label_column: the names of these columns; None to find them.

    Raises:
        UserError: it cannot be read, it is not what its suffix says, or it is not clear which
            column holds the texts.
    """
    with _opened(path) as file:
        return _read(path, file, text_column, label_column)


def read_rows(path: Path) -> list[tuple[int, Mapping[str, Any]]]:
    """The rows of a table by its columns, each with its line; none of a file of lines.

    Raises:
        UserError: as `read_table`.
    """
    with _opened(path) as file:
        return _rows(path, file)


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """The open file; errors of reading and of its format are UserErrors that name it."""
    try:
        with path.open("rb") as start:
            if start.read(2) in UTF_16:
                raise UserError(f"{path}: is UTF-16, and texts are read as UTF-8: convert it")
        # A byte that is no UTF-8 makes its own text unusable, not the file.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield file
    except UserError:  # which is a ValueError
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (csv.Error, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as {path.suffix}: {error}") from None


def _rows(path: Path, file: Iterable[str]) -> list[tuple[int, Mapping[str, Any]]]:
    suffix = path.suffix.lower()
    if suffix in LINES:
        return []
    return list(_table(file, COLUMNS[suffix]) if suffix in COLUMNS else _records(path, file))


def _read(
    path: Path, file: Iterable[str], text_column: str | None, label_column: str | None
) -> Rows:
    suffix = path.suffix.lower()
    if suffix in LINES:
        for name, given in (("text", text_column), ("label", label_column)):
            if given is not None:
                raise UserError(f"no {name} column {given!r}: {path} has lines and no columns")
        texts = [line.rstrip("\r\n") for line in file]
        return Rows(texts, None, range(1, len(texts) + 1))
    found = _rows(path, file)
    if not found:
        raise UserError(f"{path} has no rows")
    columns = list(dict.fromkeys(key for _, row in found[:1000] for key in row))
    text = _column(path, "text", text_column, columns, TEXT_COLUMNS)
    if text is None:
        raise UserError(
            f"{path}: which column holds the texts is not clear ({listing(columns)}): name it with "
            f"--text-column, or call it {TEXT_COLUMNS[0]}"
        )
    label = _column(path, "label", label_column, columns, LABEL_COLUMNS)
    texts = [_text(row.get(text)) for _, row in found]
    lines = [line for line, _ in found]
    if label is None:
        return Rows(texts, None, lines)
    labels = [row.get(label) for _, row in found]
    missing = sum(value is None or value == "" for value in labels)
    if missing:
        of = f"{missing} of {len(labels)} rows have no {label}"
        return Rows(texts, None, lines, (f"{path}: {of}, so it counts as unlabelled",))
    return Rows(texts, [_text(value) for value in labels], lines)


def _table(file: Iterable[str], delimiter: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows of a table whose first row names the columns, each with its line."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        reader = csv.DictReader(file, delimiter=delimiter)
        for row in reader:
            yield reader.line_num, {key: value for key, value in row.items() if key is not None}
    finally:
        csv.field_size_limit(before)


def _records(path: Path, file: Iterable[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The objects of a file of JSON: one in each line, or a list of them."""
    if path.suffix.lower() == ".json":
        rows = json.loads("".join(file))
        if not isinstance(rows, list):
            raise UserError(f"{path}: its JSON is no list of objects")
        numbered: Iterable[tuple[int, Any]] = enumerate(rows, start=1)
    else:
        numbered = ((n, json.loads(line)) for n, line in enumerate(file, start=1) if line.strip())
    for number, row in numbered:
        if not isinstance(row, dict):
            raise UserError(f"{path}: entry {number} is no object with columns")
        yield number, row


def _column(
    path: Path, kind: str, wanted: str | None, columns: Sequence[str], usual: Sequence[str]
) -> str | None:
    """The column that is meant; None if there is none."""
    if wanted is not None:
        if wanted not in columns:
            raise unknown(f"{kind} column of {path}", wanted, columns)
        return wanted
    named = {column.strip().lower(): column for column in columns}
    found = next((named[name] for name in usual if name in named), None)
    if found is None and kind == "text" and len(columns) == 1:
        return columns[0]
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)
