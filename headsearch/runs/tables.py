"""The tables of a run (ranking.csv, rungs.csv, scores.csv, solo.csv): columns, reading, writing.

Also the order of the candidates in ranking.csv, and its rows as typed objects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from headsearch.errors import UserError
from headsearch.runs.directory import write_atomically
from headsearch.runs.other_data import BASE_OTHER_DATA, DENSE_SCORES, OTHER_DATA_SCORES
from headsearch.text import for_csv, printable

RANKING_COLUMNS = (
    "rank",
    "candidate",
    "family",
    "cohort",
    "state",
    "rungs",
    "score",
    "discrepancy",
    "discrepancy_low",
    "discrepancy_high",
    "head_knn",
    "head_linear",
    *OTHER_DATA_SCORES,
    "effective_rank",
    "params_m",
    "gflops",
    "step_ms",
    "reason",
)


RUNG_COLUMNS = (
    "candidate",
    "cohort",
    "rung",
    "step",
    "images",
    "discrepancy",
    "head_knn",
    "head_linear",
    "base_knn",
    "base_linear",
    "loss",
    "head_top5",
    "base_top5",
    *OTHER_DATA_SCORES,
    *BASE_OTHER_DATA,
)


TOP5 = ("head_top5", "base_top5")
"""Columns of rungs.csv: the share of queries whose class is among a probe's five likeliest.

Empty with five classes or fewer. Earlier runs lack these columns; they are read as empty.
"""


FURTHER_SCORES: dict[str, str] = {
    "complementarity": "accuracy of a linear probe on base and head together, minus the base's",
    "head_only_right": "share of {samples} that the head classifies rightly and the base wrongly",
    "discrepancy_pooled": "1 − debiased linear CKA of pooled features, which the loss compares",
    "absorption": "whether learning from the head lowers the base's own loss on other {samples}",
    "predicted_gain": "the gain predicted from published solo runs of other settings",
    "static_prior": "the mean gain of this head, or of its family, in published settings",
}
"""Further scores of a head: their columns in scores.csv, and what they measure (`Words.say`).

Runs of the first version lack these columns; they are read as empty.
"""


SCORE_COLUMNS = (
    "candidate",
    "seed",
    "rung",
    "step",
    "score",
    "discrepancy",
    "cka",
    "mutual_knn",
    "procrustes",
    "choose_knn",
    "choose_linear",
    "base_choose_knn",
    "base_choose_linear",
    "effective_rank",
    "loss",
    *FURTHER_SCORES,
    *OTHER_DATA_SCORES,
)


SOLO_COLUMNS = (
    "candidate",
    "family",
    "seed",
    "base_knn",
    "base_linear",
    "choose_knn",
    "choose_linear",
    *BASE_OTHER_DATA,
)


TABLES = ("ranking.csv", "rungs.csv", "scores.csv")
"""The tables that a search writes."""


STATES = ("running", "complete", "pruned", "collapsed", "failed")
"""The states of a candidate."""


_TEXT_COLUMNS = {
    "candidate", "family", "state", "reason", "analysis", "model", "reference", "block", "verdict",
}  # fmt: skip
_WHOLE_COLUMNS = {"rank", "rungs", "rung", "cohort", "seed", "step"}
_SHARE_COLUMNS = {
    f"{of}_{probe}"
    for of in ("head", "base", "choose", "base_choose")
    for probe in ("knn", "linear")
} | {*TOP5, *DENSE_SCORES, *(f"base_{name}" for name in DENSE_SCORES)}
_KEYS = ("candidate", "seed", "rung")
"""Columns that name a row, as far as a table has them: no two rows have the same."""
MOST_ROWS = 100_000
"""Rows that a table may have: a search of 1,000 heads with 9 rungs and 10 seeds has 100,000."""


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Writes a table as CSV, completely or not at all; no text in it can be read as a formula."""
    for name in frame.columns:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            cells = (for_csv(cell) if isinstance(cell, str) else cell for cell in frame[name])
            frame = frame.assign(**{name: list(cells)})
    write_atomically(path, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Reads a table of a run; an empty one if the file does not exist.

    Args:
        path: of the file.
        columns: that it must have; further ones are kept.

    Raises:
        UserError: the file is not such a table.
    """
    if not path.is_file():
        return pd.DataFrame(columns=list(columns))
    try:
        frame: pd.DataFrame = pd.read_csv(
            path,
            dtype=dict.fromkeys(_TEXT_COLUMNS, str),
            keep_default_na=False,  # a head may be called NA
            na_values=[""],
            nrows=MOST_ROWS + 1,
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a table of a run: {str(error).splitlines()[0]}") from None
    if frame.empty:  # pandas cannot infer the type of empty columns
        frame = frame.astype({name: float for name in columns if name in frame.columns})
    frame = frame.assign(
        **{
            name: math.nan
            for name in (*FURTHER_SCORES, *TOP5, *OTHER_DATA_SCORES, *BASE_OTHER_DATA)
            if name in columns and name not in frame.columns
        }
    )
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise UserError(f"{path}: not a table of a run: it has no column {missing[0]!r}")
    _check_cells(path, frame, columns)
    for column in _TEXT_COLUMNS & set(columns):  # untrusted: plots and tables show these texts
        frame[column] = frame[column].map(printable, na_action="ignore")
    if "state" in columns and not set(frame["state"]) <= set(STATES):
        unknown = sorted(set(map(str, frame["state"])) - set(STATES))
        raise UserError(f"{path}: no such state of a candidate: {unknown[0]!r}")
    return frame


def _check_cells(path: Path, frame: pd.DataFrame, columns: tuple[str, ...]) -> None:
    """Checks the size of a table, its numbers, and that no row is there twice.

    Raises:
        UserError: with the file and the column.
    """
    if len(frame) > MOST_ROWS:
        raise UserError(f"{path}: a table of a run has at most {MOST_ROWS:,} rows, this one more")
    for column in columns:
        cells = frame[column]
        if column in _TEXT_COLUMNS:
            if column == "candidate" and cells.isna().any():
                raise UserError(f"{path}: column {column!r} is empty in a row")
            continue
        if not pd.api.types.is_numeric_dtype(cells) or pd.api.types.is_bool_dtype(cells):
            raise UserError(f"{path}: column {column!r} holds something other than numbers")
        wrong = _wrong(column, cells)
        if wrong is not None:
            number, expected = wrong
            raise UserError(f"{path}: column {column!r} holds {number:g}, and not {expected}")
    key = [name for name in _KEYS if name in columns]
    twice = frame[frame.duplicated(key)] if key else frame[:0]
    if len(twice):
        row = ", ".join(str(value) for value in twice.iloc[0][key])
        raise UserError(f"{path}: the row of {printable(row)} is there twice: delete one of them")


def _wrong(column: str, cells: pd.Series[float]) -> tuple[float, str] | None:
    """The first number that a column cannot hold, and what it holds; None if there is none."""
    if column in _WHOLE_COLUMNS:
        bad = ~((cells >= 0) & (cells % 1 == 0))
        expected = "a whole number from 0 on"
    elif column in _SHARE_COLUMNS:
        bad, expected = (cells < 0) | (cells > 1), "a share from 0 to 1"
    elif column == "loss":  # that of a head that diverged is infinite
        return None
    else:
        bad, expected = cells.isin([math.inf, -math.inf]), "a finite number"
    return (float(cells[bad].iloc[0]), expected) if bad.any() else None


STATE_CLASS = {"complete": 0, "running": 0, "pruned": 1, "collapsed": 2, "failed": 3}
"""The first key of the ranking: whatever its score, a collapsed head never ranks first."""


UNHEALTHY = ("collapsed", "failed")
"""States of heads whose scores mean nothing."""


CONTROL_FAMILIES = ("identity", "own")
"""Families that serve as a reference and are never recommended."""


NO_HEAD = "none"
"""The name that stands for pretraining without a head."""


def rank(rows: pd.DataFrame) -> pd.DataFrame:
    """The candidates in their order, with `rank` from 1.

    Order: state (complete and running, then pruned, collapsed, failed), rungs reached, score
    (higher first, missing last), name. The order of `rows` does not matter.

    Args:
        rows: a row a candidate, with RANKING_COLUMNS except `rank`; further columns are kept.

    Returns:
        RANKING_COLUMNS in their order, then the further columns.
    """
    unknown_states = set(rows["state"]) - set(STATE_CLASS)
    assert not unknown_states, f"no such state: {unknown_states}"
    keys = rows.assign(
        _class=[STATE_CLASS[state] for state in rows["state"]],
        _score=pd.to_numeric(rows["score"]),
    )
    ordered = keys.sort_values(
        ["_class", "rungs", "_score", "candidate"],
        ascending=[True, False, False, True],
        na_position="last",
        kind="stable",
    ).reset_index(drop=True)
    ordered["rank"] = np.arange(1, len(ordered) + 1)
    further = [name for name in rows.columns if name not in RANKING_COLUMNS]
    return ordered.filter([*RANKING_COLUMNS, *further])


@dataclass(frozen=True)
class Ranked:
    """A row of ranking.csv. Missing figures are NaN, missing texts are empty."""

    rank: int
    candidate: str
    family: str
    state: str
    rungs: int
    score: float
    discrepancy: float
    discrepancy_low: float
    discrepancy_high: float
    head_knn: float
    head_linear: float
    effective_rank: float
    params_m: float
    gflops: float
    step_ms: float
    reason: str
    gain: float = math.nan
    gain_low: float = math.nan
    gain_high: float = math.nan
    seg_knn: float = math.nan
    seg_linear: float = math.nan
    region_knn: float = math.nan
    region_linear: float = math.nan
    det_ap50: float = math.nan
    det_ar100: float = math.nan
    mask_iou: float = math.nan
    task_mean: float = math.nan

    @property
    def healthy(self) -> bool:
        """Whether the head neither collapsed nor failed."""
        return self.state not in UNHEALTHY

    @property
    def control(self) -> bool:
        """Whether this is a reference (`identity`, the base's own kind of block), not a
        discovery."""
        return self.family in CONTROL_FAMILIES

    @property
    def accuracy(self) -> float:
        """The k-NN accuracy, or the linear probe's if only that was measured."""
        return self.head_linear if math.isnan(self.head_knn) else self.head_knn


_KINDS = {field.name: str(field.type) for field in fields(Ranked)}


def ranked(frame: pd.DataFrame) -> list[Ranked]:
    """The rows of ranking.csv in the order of `rank`, typed."""
    return [
        Ranked(**{name: _typed(record.get(name), kind) for name, kind in _KINDS.items()})
        for record in frame.sort_values("rank", kind="stable").to_dict("records")
    ]


def _typed(value: Any, kind: str) -> Any:
    """A cell as `str`, `int` or `float`, with the default of its type if it is missing."""
    missing = value is None or value is pd.NA or value != value
    if kind == "str":
        return "" if missing else str(value)
    if kind == "int":
        return 0 if missing else int(value)
    return math.nan if missing else float(value)
