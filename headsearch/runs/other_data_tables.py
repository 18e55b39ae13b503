"""dense.csv and tasks.csv: scores on data of their own with standard errors.

A row is a representation and a score. Unlike rungs.csv they hold only the last rung of a head, and
what is needed to compare any two representations: the score without each group of samples. Both
tables hold rows of one kind, told apart by the names of their scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from headsearch.errors import UserError
from headsearch.runs.directory import write_atomically
from headsearch.runs.other_data import DENSE_SCORES, OF_CLASS, TASK_MEAN, TASK_SCORES
from headsearch.text import for_csv, printable

RAW = "raw"
"""The kind of the row of the inputs themselves in tasks.csv, such as shrunk pixels or TF-IDF."""
WITHOUT = tuple(f"without_{number}" for number in range(10))
"""The score without each of the 10 contiguous groups of the reported samples."""
COLUMNS = (
    "representation", "kind", "cohort", "rung", "score", "value", "error", "over_base",
    "over_base_error", *WITHOUT,
)  # fmt: skip
"""`over_base`: the difference from the base of the same cohort and rung, on the same samples. The
last column is what the score is of, where it is of something: a class, or a task."""


@dataclass(frozen=True)
class Layout:
    """What one of the two tables of such rows holds.

    Attributes:
        file: its name.
        of: the name of the column of classes or tasks. Earlier tables of dense scores lack it.
        kinds: what a representation can be.
        scores: the names of its scores.
    """

    file: str
    of: str
    kinds: tuple[str, ...]
    scores: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return (*COLUMNS, self.of)

    def empty(self) -> pd.DataFrame:
        """The table without rows."""
        return pd.DataFrame(columns=list(self.columns))


DENSE = Layout(
    "dense.csv", "class", ("position", "pixels", "ceiling", "untrained", "base", "head"),
    tuple(DENSE_SCORES),
)  # fmt: skip


TASKS = Layout("tasks.csv", "task", (RAW, "untrained", "base", "head"), (TASK_MEAN, *TASK_SCORES))
"""`task_mean` is the mean over the tasks; its rows name no task."""


def write_other_data(run_directory: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes dense.csv and tasks.csv; no table without rows.

    Args:
        run_directory: where to.
        rows: those of `row_of`.
    """
    for layout in (DENSE, TASKS):
        _write(run_directory, rows, layout)


def _write(run_directory: Path, rows: Sequence[Mapping[str, Any]], layout: Layout) -> None:
    kept = [{**row, layout.of: row.get("class")} for row in rows if row["score"] in layout.scores]
    if not kept:
        return
    # Rows in snapshots of older versions have no class.
    frame = pd.DataFrame(kept, columns=list(layout.columns)).fillna({layout.of: ""})
    texts = ("representation", layout.of)
    frame = frame.assign(**{name: frame[name].map(for_csv) for name in texts})
    text = frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    write_atomically(run_directory / layout.file, text)


def read_other_data(run_directory: Path, layout: Layout) -> pd.DataFrame:
    """Reads one of the two tables; an empty one if there is none.

    Raises:
        UserError: it is not such a table.
    """
    path, of = run_directory / layout.file, layout.of
    if not path.is_file():
        return layout.empty()
    texts = ("representation", "kind", "score", of)
    try:
        frame: pd.DataFrame = pd.read_csv(
            path, dtype=dict.fromkeys(texts, str), keep_default_na=False, na_values=[""],
            nrows=100_001,
        )  # fmt: skip
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ValueError) as why:
        raise UserError(f"{path}: not a table of a run: {str(why).splitlines()[0]}") from None
    if of not in frame.columns:
        frame[of] = ""
    frame[of] = frame[of].fillna("").map(printable)
    missing = [name for name in layout.columns if name not in frame.columns]
    if missing:
        raise UserError(f"{path}: not a table of a run: it has no column {missing[0]!r}")
    for name in COLUMNS:
        if name not in texts and not pd.api.types.is_numeric_dtype(frame[name]):
            raise UserError(f"{path}: column {name!r} holds something other than numbers")
    for name, known in (("kind", layout.kinds), ("score", layout.scores)):
        wrong = set(frame[name].map(str)) - set(known)
        if wrong:
            raise UserError(f"{path}: column {name!r} holds {printable(min(wrong))!r}")
    if frame["representation"].isna().any():
        raise UserError(f"{path}: column 'representation' is empty in a row")
    return frame.assign(representation=frame["representation"].map(printable))


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
    """One row of dense.csv or tasks.csv.

    Args:
        representation, kind, cohort, rung: what was scored, and where.
        score: its name, perhaps with a class or a task (`OF_CLASS`).
        value, error, over_base, over_base_error: its figures.
        without: a value for each of `WITHOUT`, or none.
    """
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
