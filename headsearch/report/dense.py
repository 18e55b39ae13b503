"""The report's section on dense tasks: scores beside baselines and ceiling, what they decide."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from headsearch.report.columns import COLUMNS, points
from headsearch.report.statistics.other_data import (
    ScoreRow,
    base_of,
    classes_of,
    gains_on_other_data,
    mean_difference,
    not_above,
    of_head,
    score_rows,
    scores_in,
)
from headsearch.report.statistics.ranking import contenders
from headsearch.report.tables import Table
from headsearch.report.verification import gain_text
from headsearch.runs.other_data import OTHER_DATA_RANKINGS, TASKS
from headsearch.runs.run import Run
from headsearch.runs.tables import Ranked, ranked
from headsearch.text import listing

HEADS = 12
"""The most heads in the table; dense.csv has all."""
HEADS_BY_CLASS = 3
"""The most heads in the table of classes."""
KINDS = {
    "position": "Position alone",
    "pixels": "Raw pixels",
    "untrained": "Untrained base",
    "base": "Trained base",
    "ceiling": "Ceiling of the grid",
}


@dataclass(frozen=True)
class DenseSection:
    """The texts of the section.

    Attributes:
        table: the scores of baselines, base and heads.
        legend: how to read the table.
        classes: detection of each class with many boxes; None without any.
        gains: what verified heads add to the base in solo runs; None without any.
        lines: what was understood of the data, and what the scores decide.
    """

    table: Table
    legend: str
    classes: Table | None
    gains: Table | None
    lines: list[str]


def dense_section(run: Run) -> DenseSection | None:
    """The section; None without dense scores."""
    scores = scores_in(run)
    if not scores:
        return None
    heads = [row for row in ranked(run.ranking) if row.healthy][:HEADS]
    legend = (
        "Scores in % on the dense images that are reported on, ± one standard error (jackknife "
        "over 10 contiguous groups of images, since neighbours may be alike). In brackets: the "
        "difference of a head from the base on the same images, ± its paired standard error. "
        + " ".join(f"{COLUMNS[name].short}: {WHAT[name]}." for name in scores)
    )
    return DenseSection(
        _table(run, scores, heads),
        legend,
        _classes_table(run, heads[:HEADS_BY_CLASS]),
        _gains_table(run),
        list(_lines(run, scores)),
    )


WHAT = {
    "seg_knn": "mIoU of segmentation by the nearest patches",
    "seg_linear": "mIoU by a linear probe on patches",
    "region_knn": "accuracy of k-NN on what stands in true boxes",
    "region_linear": "the same by a linear probe",
    "det_ap50": "average precision of a linear detector at IoU 0.5, whatever the class",
    "det_ar100": "average recall of its 100 best boxes",
    "mask_iou": "IoU of masks within true boxes",
}


def _table(run: Run, scores: Sequence[str], heads: Sequence[Ranked]) -> Table:
    of_kind: dict[str, dict[str, ScoreRow]] = {kind: {} for kind in KINDS}
    cohort = cohort_of_first(run)
    for score in scores:
        for row in score_rows(run, score):
            if row.kind in KINDS and (row.kind != "base" or row.cohort == cohort):
                of_kind[row.kind][score] = row
    rows = [
        [title, *(cell(of_kind[kind].get(score)) for score in scores)]
        for kind, title in KINDS.items()
        if of_kind[kind]
    ]
    for head in heads:
        cells = [cell(of_head(run, score, head.candidate)) for score in scores]
        rows.append([f"{head.rank}. {head.candidate}", *cells])
    headings = ["Representation", *(COLUMNS[score].heading for score in scores)]
    return Table(headings, [False, *(True for _ in scores)], rows)


def _classes_table(run: Run, heads: Sequence[Ranked]) -> Table | None:
    """Detection of each class by the base and the first heads; None without classes."""
    score, cohort = "det_ap50", cohort_of_first(run)
    rows = [
        [
            name,
            cell(base_of(run, score, cohort, name)),
            *(cell(of_head(run, score, head.candidate, name)) for head in heads),
        ]
        for name in classes_of(run, score)
    ]
    if not rows:
        return None
    names = [f"{head.rank}. {head.candidate}" for head in heads]
    headings = [f"{COLUMNS[score].heading} by class", KINDS["base"], *names]
    return Table(headings, [False, *(True for _ in headings[1:])], rows)


def _gains_table(run: Run) -> Table | None:
    """The gains of verified heads by task, in points, with their simultaneous 95 % intervals."""
    found = {task: of for task, of in gains_on_other_data(run).items() if task != TASKS}
    if not found:
        return None
    heads = list(next(iter(found.values())))
    rows = [[head, *(gain_text(found[task][head]) for task in found)] for head in heads]
    headings = ["Gain of a solo run (points)", *(task.capitalize() for task in found)]
    return Table(headings, [False, *(True for _ in found)], rows)


def cell(row: ScoreRow | None) -> str:
    """A score in %, with its error, and the difference from the base."""
    if row is None or math.isnan(row.value):
        return "–"
    error = "" if math.isnan(row.error) else f" ± {100 * row.error:.1f}"
    text = f"{100 * row.value:.1f}{error}"
    if math.isnan(row.over_base):
        return text
    paired = "" if math.isnan(row.over_base_error) else f" ± {100 * row.over_base_error:.1f}"
    return f"{text} ({points(row.over_base)}{paired})"


def cohort_of_first(run: Run) -> int:
    """The cohort of the first-ranked head; 0 before there is one."""
    heads = contenders(ranked(run.ranking))
    if not heads:
        return 0
    own = run.ranking.loc[run.ranking["candidate"] == heads[0].candidate, "cohort"]
    return int(own.iloc[0]) if len(own) and own.notna().all() else 0


def _lines(run: Run, scores: Sequence[str]) -> Iterator[str]:
    yield from (run.facts.get("dense") or {}).get("notes", [])
    cohort = cohort_of_first(run)
    undecided = {score: not_above(run, score, cohort) for score in scores}
    failing = {score: kind for score, kind in undecided.items() if kind is not None}
    trained = [score for score in scores if (base := base_of(run, score, cohort)) and base.rung]
    if trained and failing:
        names = listing(
            [f"{COLUMNS[s].short} ({KINDS[kind].lower()})" for s, kind in failing.items()]
        )
        which = "dense scores decide nothing here" if len(failing) == len(trained) else (
            "these scores decide nothing here"
        )  # fmt: skip
        yield (
            f"The trained base does not stand two standard errors above its baselines in {names}: "
            f"{which}. Longer training, a finer grid or more images may change that."
        )
    deciding = [score for score in trained if score not in failing]
    if deciding:
        yield (
            "The trained base stands two standard errors above all its baselines in "
            f"{listing([COLUMNS[score].short for score in deciding])}."
        )
    heads = [head for head in contenders(ranked(run.ranking)) if not head.control]
    if len(heads) > 1:
        yield from _good_for_what(run, heads, scores)


def _good_for_what(run: Run, heads: Sequence[Ranked], scores: Sequence[str]) -> Iterator[str]:
    """Which head is first in which task, and the heads that no other beats in all of them."""
    goals = _goals(heads, scores)
    firsts = [_first(run, name, values) for name, values in goals.items()]
    yield f"First on the reported images: {listing(firsts)}."
    front = pareto_front([[values[h.candidate] for values in goals.values()] for h in heads])
    names = [head.candidate for head, kept in zip(heads, front, strict=True) if kept]
    shown = listing(names[:HEADS]) + (", …" if len(names) > HEADS else "")
    yield (
        f"Pareto front of {listing(list(goals))} (no other head is as good in all and better in "
        f"one): {shown}. Differences within the standard errors are not beyond chance."
    )


def _first(run: Run, goal: str, values: Mapping[str, float]) -> str:
    """The first head in a goal; in a dense task with its lead over the second, and its error."""
    first, second = sorted(values, key=values.__getitem__, reverse=True)[:2]
    lead = mean_difference(run, OTHER_DATA_RANKINGS.get(goal, ()), first, second)
    if lead is None or math.isnan(lead.error):
        return f"{first} ({goal})"
    return f"{first} ({goal}: {points(lead.value)} ± {100 * lead.error:.1f} over {second})"


def _goals(heads: Sequence[Ranked], scores: Sequence[str]) -> Mapping[str, dict[str, float]]:
    """The figures of heads by goal: accuracy, if it is known, and each dense task."""
    goals: dict[str, dict[str, float]] = {}
    if all(math.isfinite(head.accuracy) for head in heads):
        goals["accuracy"] = {head.candidate: head.accuracy for head in heads}
    for task, columns in OTHER_DATA_RANKINGS.items():
        if set(columns) <= set(scores):
            values = {
                head.candidate: sum(float(getattr(head, name)) for name in columns)
                for head in heads
            }
            if all(map(math.isfinite, values.values())):
                goals[task] = values
    return goals


def pareto_front(points_NK: Sequence[Sequence[float]]) -> list[bool]:
    """Which points no other point dominates: at least as good in all goals and better in one."""
    return [
        not any(
            all(o >= p for o, p in zip(other, point, strict=True))
            and any(o > p for o, p in zip(other, point, strict=True))
            for other in points_NK
        )
        for point in points_NK
    ]
