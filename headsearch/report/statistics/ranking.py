"""What a run's ranking goes by, and which heads are comparable and differ beyond error.

Accuracies are fractions (0 to 1) on the reporting split. Intervals are 95 % intervals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from headsearch.report.statistics.intervals import Interval, accuracy_interval, told_apart
from headsearch.report.statistics.other_data import mean_difference
from headsearch.runs.rank_by import AUTO, RANK_BY, check_rank_by, criterion, weights_of
from headsearch.runs.run import Run
from headsearch.runs.tables import STATE_CLASS, Ranked


def rank_by(run: Run) -> str:
    """What the ranking score measures: a name in `RANK_BY`, or a weighted mean of some.

    Raises:
        UserError: config.yaml names a score that does not exist.
    """
    chosen = str(run.config.get("rank_by", AUTO))
    check_rank_by(chosen)
    labelled = run.facts.get("labelled") is not False
    if chosen == AUTO or (criterion(chosen).needs_labels and not labelled):
        return "accuracy" if labelled else "discrepancy"
    return chosen


def reporting_images(run: Run) -> int | None:
    """The number of images behind every reported accuracy; None if the run did not record it."""
    number = run.facts.get("eval", {}).get("report")
    return int(number) if number else None


def last_rung(run: Run) -> int | None:
    """The last rung that was scored; None before rung 0."""
    scored = run.ranking.loc[run.ranking["score"].notna(), "rungs"]  # in case rungs.csv is lost
    rungs = [*run.rungs["rung"], *scored]
    return int(max(rungs)) if rungs else None


def distinct(first: Ranked, second: Ranked, run: Run) -> bool:
    """Whether `first` beats `second` in what the ranking measures, beyond their intervals.

    For a score of several measures (balanced, a weighted mean), at least one must be better and
    none worse: a head that is better in one measure and worse in the other is not shown to be the
    better one. Dense scores are compared on the same images, beyond two standard errors. Other
    scores have no interval, so no head is shown to be better by them.
    """
    verdicts = [
        verdict
        for name in weights_of(rank_by(run))
        for verdict in _verdicts(name, first, second, run)
    ]
    return bool(verdicts) and max(verdicts) == 1 and min(verdicts) >= 0


def _verdicts(score: str, first: Ranked, second: Ranked, run: Run) -> Iterator[int]:
    """What each measure of a score says; nothing where it has no interval. See `_verdict`."""
    if columns := RANK_BY[score].other_data:
        for sign, names in ((1, (first, second)), (-1, (second, first))):
            found = mean_difference(run, columns, *(row.candidate for row in names))
            yield sign * (found is not None and found.beyond_error)
    if score in ("discrepancy", "balanced"):
        yield _verdict(_discrepancy(first), _discrepancy(second))
    images = reporting_images(run)
    if score in ("accuracy", "balanced"):
        yield (
            0
            if images is None
            else _verdict(
                accuracy_interval(first.accuracy, images),
                accuracy_interval(second.accuracy, images),
            )
        )


def _discrepancy(row: Ranked) -> Interval:
    return Interval(row.discrepancy, row.discrepancy_low, row.discrepancy_high)


def _verdict(first: Interval, second: Interval) -> int:
    """1 if `first` is larger, −1 if it is smaller, 0 if the intervals do not tell."""
    if not told_apart(first, second):
        return 0
    return 1 if first.value > second.value else -1


def contenders(rows: Sequence[Ranked]) -> list[Ranked]:
    """The healthy heads that are comparable to the first-ranked one, best first.

    These were last scored at the same rung and are in the same kind of state: still in the run, or
    pruned.
    """
    healthy = [row for row in rows if row.healthy]
    if not healthy:
        return []
    leader = healthy[0]
    return [
        row
        for row in healthy
        if row.rungs == leader.rungs and STATE_CLASS[row.state] == STATE_CLASS[leader.state]
    ]


def best_head(rows: Sequence[Ranked]) -> Ranked | None:
    """The first head that neither collapsed nor failed and is no control; None without one."""
    return next((row for row in rows if row.healthy and not row.control), None)


def base_has_learnt(run: Run) -> bool | None:
    """Whether the base is more accurate than its untrained self beyond error; None if unknown."""
    baselines, images = run.facts.get("baselines", {}), reporting_images(run)
    for probe in ("knn", "linear"):
        trained, untrained = baselines.get(f"base_{probe}"), baselines.get(f"untrained_{probe}")
        if trained is not None and untrained is not None and images is not None:
            return (
                _verdict(accuracy_interval(trained, images), accuracy_interval(untrained, images))
                == 1
            )
    return None
