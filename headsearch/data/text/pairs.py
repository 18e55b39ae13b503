"""`read_pairs`: pairs of texts with a score of how alike they are, from a table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from headsearch.data.text.tables import read_rows
from headsearch.errors import UserError, unknown
from headsearch.text import listing

PAIR_COLUMNS = (
    ("sentence1", "sentence2"), ("text1", "text2"), ("sentence_a", "sentence_b"),
    ("text_a", "text_b"), ("first", "second"),
)  # fmt: skip
"""Names of the columns of pairs that are taken where none are named."""
SCORE_COLUMNS = ("score", "similarity", "relatedness", "gold")
"""Names of the column of their scores, the first of them that is there."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of texts.

    Attributes:
        first, second: the texts of each pair.
        scores: how alike they are; a larger number means more.
        lines: the line in the file of each.
    """

    first: list[str]
    second: list[str]
    scores: list[float]
    lines: list[int]


def read_pairs(path: Path, columns: str | None) -> Pairs | None:
    """Reads the pairs of a table; None if it has none.

    Args:
        path: a table; see `TABLES`.
        columns: FIRST,SECOND,SCORE; None to find them by their names.

    Raises:
        UserError: the table cannot be read, it lacks a column, or a score is no number.
    """
    found = read_rows(path)
    known = list(dict.fromkeys(key for _, row in found[:1000] for key in row))
    names = _named(path, columns, known)
    if names is None:
        return None
    first, second, score = names
    pairs = Pairs([], [], [], [])
    for line, row in found:
        try:
            value = float(row.get(score, ""))
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise UserError(f"{path} line {line}: the {score} {row.get(score)!r} is no number")
        pairs.first.append(str(row.get(first) or ""))
        pairs.second.append(str(row.get(second) or ""))
        pairs.scores.append(value)
        pairs.lines.append(line)
    return pairs


def _named(path: Path, columns: str | None, known: list[str]) -> tuple[str, str, str] | None:
    """The columns of the two texts and of the score; None if the table has no pairs."""
    if columns is not None and columns.count(",") == 2:
        first, second, score = (name.strip() for name in columns.split(","))
        for name in (first, second, score):
            if name not in known:
                raise unknown(f"column of {path}", name, known)
        return first, second, score
    named = {column.strip().lower(): column for column in known}
    pair = next((pair for pair in PAIR_COLUMNS if set(pair) <= named.keys()), None)
    if pair is None or columns is not None:
        return None
    score_name = next((named[name] for name in SCORE_COLUMNS if name in named), None)
    if score_name is None:
        raise UserError(
            f"{path}: which column holds the scores of its pairs is not clear ({listing(known)}): "
            "name the columns, @FIRST,SECOND,SCORE"
        )
    return named[pair[0]], named[pair[1]], score_name
