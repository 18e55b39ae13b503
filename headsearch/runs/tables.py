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
)


FURTHER_SCORES: dict[str, str] = {
    "complementarity": "accuracy of a linear probe on base and head together, minus the base's",
    "head_only_right": "share of images that the head classifies rightly and the base wrongly",
    "discrepancy_pooled": "1 − debiased linear CKA of pooled features, which the loss compares",
    "absorption": "whether learning from the head lowers the base's own loss on other images",
    "predicted_gain": "the gain that published solo runs of other settings let expect",
    "static_prior": "the mean gain of this head, or of its family, in published settings",
}
"""Further scores of a head: their columns in scores.csv, and what they measure.

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
)


SOLO_COLUMNS = (
    "candidate",
    "family",
    "seed",
    "base_knn",
    "base_linear",
    "choose_knn",
    "choose_linear",
)


STATES = ("running", "complete", "pruned", "collapsed", "failed")
"""The states of a candidate."""


_TEXT_COLUMNS = {"candidate", "family", "state", "reason"}


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
            path, dtype=dict.fromkeys(_TEXT_COLUMNS, str), keep_default_na=True, na_filter=True
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a table of a run: {str(error).splitlines()[0]}") from None
    if frame.empty:  # pandas cannot infer the type of empty columns
        frame = frame.astype({name: float for name in columns if name in frame.columns})
    frame = frame.assign(
        **{
            name: math.nan
            for name in FURTHER_SCORES
            if name in columns and name not in frame.columns
        }
    )
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise UserError(f"{path}: not a table of a run: it has no column {missing[0]!r}")
    for column in columns:
        if column not in _TEXT_COLUMNS and not pd.api.types.is_numeric_dtype(frame[column]):
            raise UserError(f"{path}: column {column!r} holds something other than numbers")
    for column in _TEXT_COLUMNS & set(columns):  # untrusted: plots and tables show these texts
        frame[column] = frame[column].map(printable, na_action="ignore")
    if "state" in columns and not set(frame["state"]) <= set(STATES):
        unknown = sorted(set(map(str, frame["state"])) - set(STATES))
        raise UserError(f"{path}: no such state of a candidate: {unknown[0]!r}")
    return frame


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
