"""The order of the candidates, and how far their figures can be told apart.

All accuracies are fractions (0..1) on the reporting split. Every interval is a 95 % interval.
"""

from __future__ import annotations

from collections.abc import Sequence

from headsearch.report.statistics.intervals import Interval, accuracy_interval, told_apart
from headsearch.runs.run import Run
from headsearch.runs.tables import (
    STATE_CLASS,
    Ranked,
)


def rank_by(run: Run) -> str:
    """What the score measures: discrepancy, accuracy or balanced. Without labels: discrepancy."""
    if run.facts.get("labelled") is False:
        return "discrepancy"
    chosen = str(run.config.get("rank_by", "auto"))
    return "accuracy" if chosen == "auto" else chosen


def reporting_images(run: Run) -> int | None:
    """Images behind every reported accuracy, or None where the run has not said."""
    number = run.facts.get("eval", {}).get("report")
    return int(number) if number else None


def last_rung(run: Run) -> int | None:
    """The last rung that was scored, or None before rung 0."""
    scored = run.ranking.loc[run.ranking["score"].notna(), "rungs"]  # where rungs.csv is lost
    rungs = [*run.rungs["rung"], *scored]
    return int(max(rungs)) if rungs else None


def distinct(first: Ranked, second: Ranked, run: Run) -> bool:
    """Whether `first` beats `second` in what the ranking measures, by more than their intervals.

    Of two measures (balanced) at least one must be better and none worse: a head that trades
    one for the other is not shown to be the better one.
    """
    wanted, images = rank_by(run), reporting_images(run)
    verdicts = []
    if wanted in ("discrepancy", "balanced"):
        verdicts.append(_verdict(_discrepancy(first), _discrepancy(second)))
    if wanted in ("accuracy", "balanced"):
        verdicts.append(
            0
            if images is None
            else _verdict(
                accuracy_interval(first.accuracy, images),
                accuracy_interval(second.accuracy, images),
            )
        )
    return max(verdicts) == 1 and min(verdicts) >= 0


def _discrepancy(row: Ranked) -> Interval:
    return Interval(row.discrepancy, row.discrepancy_low, row.discrepancy_high)


def _verdict(first: Interval, second: Interval) -> int:
    """1 where `first` is larger, −1 where it is smaller, 0 where they cannot be told apart."""
    if not told_apart(first, second):
        return 0
    return 1 if first.value > second.value else -1


def contenders(rows: Sequence[Ranked]) -> list[Ranked]:
    """The healthy heads that were scored as late as the leader: those it can be compared with."""
    healthy = [row for row in rows if row.healthy]
    if not healthy:
        return []
    leader = healthy[0]
    return [
        row
        for row in healthy
        if row.rungs == leader.rungs and STATE_CLASS[row.state] == STATE_CLASS[leader.state]
    ]


def base_has_learnt(run: Run) -> bool | None:
    """Whether the base's accuracy is above its untrained self's beyond error; None if unknown."""
    baselines, images = run.facts.get("baselines", {}), reporting_images(run)
    for probe in ("knn", "linear"):
        trained, untrained = baselines.get(f"base_{probe}"), baselines.get(f"untrained_{probe}")
        if trained is not None and untrained is not None and images is not None:
            return (
                _verdict(accuracy_interval(trained, images), accuracy_interval(untrained, images))
                == 1
            )
    return None
