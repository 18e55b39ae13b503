"""Scores on dense data and further tasks: paired differences, and baselines of the base."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from headsearch.report.statistics.gains import Gain, gains
from headsearch.runs.other_data import DENSE_SCORES, OTHER_DATA_RANKINGS
from headsearch.runs.other_data_tables import RAW, WITHOUT
from headsearch.runs.run import Run
from headsearch.runs.tables import NO_HEAD

BASELINES = ("position", "pixels", RAW, "untrained")
"""Kinds of rows that a trained base should stand above."""
ERRORS = 2.0
"""A difference counts beyond so many standard errors."""


@dataclass(frozen=True)
class ScoreRow:
    """One score of one representation, a row of dense.csv or tasks.csv.

    Attributes:
        name, kind, cohort, rung: of the representation.
        value: as a share of 1.
        error: its standard error over groups of samples.
        over_base, over_base_error: the difference of a head from its base, and its error.
        without: the value without each group of samples; empty for the ceiling.
    """

    name: str
    kind: str
    cohort: int
    rung: int
    value: float
    error: float
    over_base: float
    over_base_error: float
    without: tuple[float, ...]


@dataclass(frozen=True)
class Difference:
    """A paired difference of two representations on the same images, with its standard error."""

    value: float
    error: float

    @property
    def beyond_error(self) -> bool:
        """Whether the first is better by more than `ERRORS` standard errors."""
        return self.value > ERRORS * self.error


def scores_in(run: Run) -> list[str]:
    """The dense scores that a run has."""
    present = set(run.dense["score"])
    return [name for name in DENSE_SCORES if name in present]


def classes_of(run: Run, score: str) -> list[str]:
    """The classes that have a score of their own."""
    classes = run.dense.loc[run.dense["score"] == score, "class"]
    return [name for name in dict.fromkeys(classes) if name]


def score_rows(run: Run, score: str, of_class: str = "") -> list[ScoreRow]:
    """The rows of a score in their order: of all classes or tasks together, or of one.

    Args:
        run: the run.
        score: of dense.csv or of tasks.csv.
        of_class: the class, or the task.
    """
    table, of = (run.dense, "class") if score in DENSE_SCORES else (run.tasks, "task")
    rows = table[(table["score"] == score) & (table[of] == of_class)]
    return [
        ScoreRow(
            str(row["representation"]), str(row["kind"]), int(row["cohort"]), int(row["rung"]),
            float(row["value"]), float(row["error"]), float(row["over_base"]),
            float(row["over_base_error"]), tuple(float(row[name]) for name in WITHOUT),
        )
        for row in rows.to_dict("records")
    ]  # fmt: skip


def difference(first: ScoreRow, second: ScoreRow) -> Difference:
    """The paired difference, with the jackknife's error over the groups that both leave out."""
    each = [a - b for a, b in zip(first.without, second.without, strict=True)]
    if len(each) < 2 or any(map(math.isnan, each)):
        return Difference(first.value - second.value, math.nan)
    centre = fmean(each)
    squares = sum((value - centre) ** 2 for value in each)
    error = math.sqrt((len(each) - 1) / len(each) * squares)
    return Difference(first.value - second.value, error)


def of_head(run: Run, score: str, candidate: str, of_class: str = "") -> ScoreRow | None:
    """A head's row of a score; None if it has none."""
    rows = score_rows(run, score, of_class)
    return next((row for row in rows if row.kind == "head" and row.name == candidate), None)


def base_of(run: Run, score: str, cohort: int, of_class: str = "") -> ScoreRow | None:
    """The base of a cohort at its last rung; None if it has no such score."""
    rows = score_rows(run, score, of_class)
    return next((row for row in rows if row.kind == "base" and row.cohort == cohort), None)


def not_above(run: Run, score: str, cohort: int = 0, of_class: str = "") -> str | None:
    """The kind of the baseline that the trained base does not stand above beyond error.

    None if it stands above all of them, or was not trained yet.
    """
    base = base_of(run, score, cohort, of_class)
    if base is None or base.rung == 0:
        return None
    for row in score_rows(run, score, of_class):
        if row.kind in BASELINES and not difference(base, row).beyond_error:
            return row.kind
    return None


def mean_difference(run: Run, scores: Sequence[str], first: str, second: str) -> Difference | None:
    """The paired difference of two heads in the mean of some scores; None if one has none."""
    pairs = [(of_head(run, score, first), of_head(run, score, second)) for score in scores]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not scores or not known or len(known) < len(pairs):
        return None
    return difference(_mean([a for a, _ in known]), _mean([b for _, b in known]))


def _mean(rows: Sequence[ScoreRow]) -> ScoreRow:
    first = rows[0]
    return ScoreRow(
        first.name, first.kind, first.cohort, first.rung, fmean(row.value for row in rows),
        math.nan, math.nan, math.nan,
        tuple(map(fmean, zip(*(row.without for row in rows), strict=True))),
    )  # fmt: skip


def gains_on_other_data(run: Run) -> dict[str, dict[str, Gain]]:
    """The gain of each verified head by task of `OTHER_DATA_RANKINGS`, over the base alone.

    Computed as the gain in accuracy is, from the mean of the base's scores of the task. Empty
    without solo runs, and where they have no such scores.
    """
    table = run.solo
    if NO_HEAD not in set(table["candidate"]) or table["candidate"].nunique() < 2:
        return {}
    shared = table[table["seed"].isin(table.loc[table["candidate"] == NO_HEAD, "seed"])]
    found = {}
    for task, scores in OTHER_DATA_RANKINGS.items():
        values = shared[[f"base_{score}" for score in scores]].mean(axis=1, skipna=False)
        if len(values) and values.notna().all():
            found[task] = gains(shared.assign(**{task: values}), task, NO_HEAD)
    return found
