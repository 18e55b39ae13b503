"""dense.csv: the dense scores of every representation with their standard errors.

A row is a representation and a score. Unlike rungs.csv it holds only the last rung of a head, and
what is needed to compare any two representations: the score without each group of images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from headsearch.errors import UserError
from headsearch.runs.dense_scores import DENSE_SCORES, OF_CLASS
from headsearch.runs.directory import write_atomically
from headsearch.text import for_csv, printable

FILE = "dense.csv"
WITHOUT = tuple(f"without_{number}" for number in range(10))
"""The score without each of the 10 contiguous groups of the reported images."""
COLUMNS = (
    "representation", "kind", "cohort", "rung", "score", "value", "error", "over_base",
    "over_base_error", *WITHOUT, "class",
)  # fmt: skip
"""`over_base`: the difference from the base of the same cohort and rung, on the same images.
`class`: that the score is of, where it is of one; tables of earlier runs lack this column."""
KINDS = ("position", "pixels", "ceiling", "untrained", "base", "head")
"""What a representation is. The first four are what the others are compared with."""
_TEXTS = ("representation", "kind", "score", "class")


def write_dense(run_directory: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes dense.csv; nothing without rows."""
    if not rows:
        return
    # Rows in snapshots of older versions have no class.
    frame = pd.DataFrame(list(rows), columns=list(COLUMNS)).fillna({"class": ""})
    frame = frame.assign(**{name: frame[name].map(for_csv) for name in ("representation", "class")})
    text = frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    write_atomically(run_directory / FILE, text)


def read_dense(run_directory: Path) -> pd.DataFrame:
    """Reads dense.csv; an empty table if there is none.

    Raises:
        UserError: it is not such a table.
    """
    path = run_directory / FILE
    if not path.is_file():
        return empty()
    texts = dict.fromkeys(_TEXTS, str)
    try:
        frame: pd.DataFrame = pd.read_csv(
            path, dtype=texts, keep_default_na=False, na_values=[""], nrows=100_001
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ValueError) as why:
        raise UserError(f"{path}: not a table of a run: {str(why).splitlines()[0]}") from None
    if "class" not in frame.columns:
        frame["class"] = ""
    frame["class"] = frame["class"].fillna("").map(printable)
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise UserError(f"{path}: not a table of a run: it has no column {missing[0]!r}")
    for name in COLUMNS:
        if name not in _TEXTS and not pd.api.types.is_numeric_dtype(frame[name]):
            raise UserError(f"{path}: column {name!r} holds something other than numbers")
    for name, known in (("kind", KINDS), ("score", tuple(DENSE_SCORES))):
        wrong = set(frame[name].map(str)) - set(known)
        if wrong:
            raise UserError(f"{path}: column {name!r} holds {printable(min(wrong))!r}")
    if frame["representation"].isna().any():
        raise UserError(f"{path}: column 'representation' is empty in a row")
    return frame.assign(representation=frame["representation"].map(printable))


def empty() -> pd.DataFrame:
    """A table without rows."""
    return pd.DataFrame(columns=list(COLUMNS))


def row_of(
    representation: str,
    kind: str,
    score: str,
    value: float,
    *,
    cohort: int = 0,
    rung: int = 0,
    error: float = math.nan,
    over_base: float = math.nan,
    over_base_error: float = math.nan,
    without: Sequence[float] = (),
) -> dict[str, Any]:
    """One row.

    Args:
        representation, kind, cohort, rung: what was scored, and where.
        score: its name, perhaps with a class (`OF_CLASS`).
        value, error, over_base, over_base_error: its figures.
        without: a value for each of `WITHOUT`, or none.
    """
    assert kind in KINDS
    score, _, of_class = score.partition(OF_CLASS)
    return {
        "representation": representation,
        "kind": kind,
        "cohort": cohort,
        "rung": rung,
        "score": score,
        "value": value,
        "error": error,
        "over_base": over_base,
        "over_base_error": over_base_error,
        **dict.fromkeys(WITHOUT, math.nan),
        **dict(zip(WITHOUT, without, strict=False)),
        "class": of_class,
    }
