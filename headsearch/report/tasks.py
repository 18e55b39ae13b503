"""The report's section on further tasks: scores beside baselines, and what verified heads gain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from headsearch.report.dense import HEADS, cell, cohort_of_first
from headsearch.report.statistics.other_data import (
    ScoreRow,
    base_of,
    gains_on_other_data,
    mean_difference,
    not_above,
    of_head,
    score_rows,
)
from headsearch.report.statistics.ranking import contenders
from headsearch.report.tables import Table
from headsearch.report.verification import gain_text
from headsearch.runs.other_data import TASK_MEAN, TASK_SCORES, TASKS
from headsearch.runs.other_data_tables import RAW
from headsearch.runs.run import Run
from headsearch.runs.tables import Ranked, ranked
from headsearch.text import listing

PROXIES = {"task_knn": "k-NN", "task_linear": "linear", "task_spearman": "Spearman"}
"""The scores in headings of tables."""


@dataclass(frozen=True)
class TaskSection:
    """The texts of the section.

    Attributes:
        table: the scores of baselines, base and heads.
        legend: how to read the table.
        gains: what verified heads add to the base in solo runs; None without any.
        lines: what was understood of the tasks, and what the scores decide.
    """

    table: Table
    legend: str
    gains: Table | None
    lines: list[str]


@dataclass(frozen=True)
class _Column:
    """A score of a task, or the mean over tasks."""

    score: str
    task: str

    @property
    def heading(self) -> str:
        return "Mean (%)" if self.score == TASK_MEAN else f"{self.words} (%)"

    @property
    def words(self) -> str:
        return "the mean" if self.score == TASK_MEAN else f"{self.task} {PROXIES[self.score]}"


def task_section(run: Run) -> TaskSection | None:
    """The section; None without further tasks."""
    columns = _columns(run)
    if not columns:
        return None
    heads = [row for row in ranked(run.ranking) if row.healthy][:HEADS]
    legend = run.words.say(
        "Scores in % on the {samples} that are reported on, ± one standard error (jackknife over "
        "10 groups of {samples}). In brackets: the difference of a head from the base on the same "
        "{samples}, ± its paired standard error. "
    )
    used = dict.fromkeys(column.score for column in columns if column.score != TASK_MEAN)
    legend += " ".join(f"{PROXIES[score]}: {TASK_SCORES[score]}." for score in used)
    legend += " Mean: over the tasks; the two accuracies of a task count half each."
    return TaskSection(
        _table(run, columns, heads), legend, _gains_table(run), list(_lines(run, columns))
    )


def _columns(run: Run) -> list[_Column]:
    """The scores of the run: the mean first, then task by task."""
    pairs = dict.fromkeys(zip(run.tasks["score"], run.tasks["task"], strict=True))
    return sorted((_Column(*pair) for pair in pairs), key=lambda column: column.score != TASK_MEAN)


def _table(run: Run, columns: Sequence[_Column], heads: Sequence[Ranked]) -> Table:
    cohort = cohort_of_first(run)
    kinds = {
        RAW: run.words.raw[0].upper() + run.words.raw[1:],
        "untrained": "Untrained base",
        "base": "Trained base",
    }
    rows = []
    for kind, title in kinds.items():
        found = [_row_of(run, column, kind, cohort) for column in columns]
        if any(found):
            rows.append([title, *map(cell, found)])
    for head in heads:
        cells = [cell(of_head(run, c.score, head.candidate, c.task)) for c in columns]
        rows.append([f"{head.rank}. {head.candidate}", *cells])
    headings = ["Representation", *(column.heading for column in columns)]
    return Table(headings, [False, *(True for _ in columns)], rows)


def _row_of(run: Run, column: _Column, kind: str, cohort: int) -> ScoreRow | None:
    if kind == "base":
        return base_of(run, column.score, cohort, column.task)
    rows = score_rows(run, column.score, column.task)
    return next((row for row in rows if row.kind == kind), None)


def _gains_table(run: Run) -> Table | None:
    """The gains of verified heads in the mean over tasks; None without verified heads."""
    found = gains_on_other_data(run).get(TASKS)
    if not found:
        return None
    rows = [[head, gain_text(gain)] for head, gain in found.items()]
    return Table(["Gain of a solo run", "Mean over further tasks (points)"], [False, True], rows)


def _lines(run: Run, columns: Sequence[_Column]) -> Iterator[str]:
    yield from (run.facts.get("tasks") or {}).get("notes", [])
    cohort = cohort_of_first(run)
    names = {RAW: run.words.raw, "untrained": "the untrained base"}
    below = [
        f"{column.words} ({names[kind]})"
        for column in columns
        if (kind := not_above(run, column.score, cohort, column.task)) is not None
    ]
    if below:
        yield (
            "In some scores the trained base is not two standard errors above a baseline, which "
            f"stands in brackets: {listing(below)}. They say little about what the base has learnt."
        )
    heads = [head for head in contenders(ranked(run.ranking)) if not head.control]
    named = sorted(heads, key=lambda head: head.task_mean, reverse=True)
    lead = (
        mean_difference(run, (TASK_MEAN,), named[0].candidate, named[1].candidate)
        if len(named) > 1
        else None
    )
    if lead is not None:
        yield (
            f"First in the mean over the tasks: {named[0].candidate}, {100 * lead.value:.1f} ± "
            f"{100 * lead.error:.1f} points over {named[1].candidate}."
        )
