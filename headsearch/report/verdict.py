"""The verdict on a run: one function that decides, from typed facts, what may be concluded.

The words are in `advice.py`. A head is recommended only where nothing speaks against it: the base
has learned, labels were there, and the head is ahead of every control beyond error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from headsearch.report.statistics.gains import Verified
from headsearch.report.statistics.ranking import base_has_learnt, contenders, last_rung
from headsearch.report.statistics.seed_noise import clearly_ahead
from headsearch.runs.run import Run
from headsearch.runs.tables import Ranked, ranked

SATURATED = 0.995
"""Accuracies of at least this, or of at most 1 minus this, cannot rank heads."""

SHOWN_GAIN = 0.0005
"""The smallest gain, as a fraction, that is not shown as 0.0 points."""


class Verdict(Enum):
    """What may be concluded from a run."""

    NOT_SCORED = auto()
    """No rung has been scored."""
    NO_TABLE = auto()
    """Rungs were scored, but ranking.csv is missing."""
    NONE_HEALTHY = auto()
    """All candidates collapsed or failed."""
    UNTRAINED = auto()
    """Only the untrained network was scored."""
    NO_ACCURACY = auto()
    """There are no labels: the ranking is a hint at most."""
    SATURATED = auto()
    """All accuracies are at 100 % or at 0 %."""
    CONTROL_FIRST = auto()
    """A control ranks first."""
    BASE_NOT_BETTER = auto()
    """The base is not better than untrained."""
    LIKE_CONTROL = auto()
    """The first head cannot be told apart from a control."""
    NO_CONTROL = auto()
    """No control reached the rung of the first head."""
    NO_RIVAL = auto()
    """No other head reached the rung of the first one."""
    LEARNING_UNKNOWN = auto()
    """Whether the base has learned was not recorded."""
    TAKE = auto()
    """The first head is ahead of every control."""
    VERIFIED_NONE = auto()
    """Solo runs: no head is shown to help."""
    VERIFIED_ONE_SEED = auto()
    """Solo runs of one seed: a head gains, which may be chance."""
    VERIFIED_LIKE_OWN = auto()
    """Solo runs: a head helps, but is not shown to help more than the control."""
    VERIFIED_TAKE = auto()
    """Solo runs: a head helps, and more than the control if that ran."""


@dataclass(frozen=True)
class SearchFacts:
    """What the verdict on a search depends on.

    Attributes:
        last_rung: the last scored rung; None if none was.
        candidates: the number of rows of the ranking.
        healthy: whether a candidate neither collapsed nor failed.
        labelled: whether accuracies were measured.
        base_learnt: whether the base is better than untrained beyond error; None if unknown.
        accuracies: those of all heads that reached the rung of the first one.
        first_is_control: whether a control ranks first.
        heads, controls: how many of each reached that rung, the first head among them.
        ahead_of_controls: whether the first head is ahead of each of them beyond error.
    """

    last_rung: int | None
    candidates: int
    healthy: bool
    labelled: bool
    base_learnt: bool | None
    accuracies: tuple[float, ...]
    first_is_control: bool
    heads: int
    controls: int
    ahead_of_controls: bool


def decide(facts: SearchFacts) -> Verdict:
    """The verdict on a search without solo runs. The first rule that applies decides."""
    if facts.last_rung is None:
        return Verdict.NOT_SCORED
    if not facts.candidates:
        return Verdict.NO_TABLE
    if not facts.healthy:
        return Verdict.NONE_HEALTHY
    if facts.last_rung == 0:
        return Verdict.UNTRAINED
    if saturated(facts.accuracies):
        return Verdict.SATURATED
    if facts.first_is_control:
        return Verdict.CONTROL_FIRST
    if not facts.labelled:
        return Verdict.NO_ACCURACY
    if facts.base_learnt is False:
        return Verdict.BASE_NOT_BETTER
    if facts.controls and not facts.ahead_of_controls:
        return Verdict.LIKE_CONTROL
    if not facts.controls:
        return Verdict.NO_CONTROL
    if facts.heads == 1:
        return Verdict.NO_RIVAL
    if facts.base_learnt is None:
        return Verdict.LEARNING_UNKNOWN
    return Verdict.TAKE


@dataclass(frozen=True)
class SoloFacts:
    """What the verdict on solo runs depends on; of the best head by the labels that choose.

    Attributes:
        gain: over no head.
        seeds: the number of seeds.
        better: whether the gain is above 0 beyond error.
        better_than_control: likewise over the control; None if no control ran.
    """

    gain: float
    seeds: int
    better: bool
    better_than_control: bool | None


def decide_verified(facts: SoloFacts) -> Verdict:
    """The verdict on a search whose heads were verified by solo runs."""
    if facts.seeds == 1:
        return Verdict.VERIFIED_ONE_SEED if facts.gain >= SHOWN_GAIN else Verdict.VERIFIED_NONE
    if not facts.better:
        return Verdict.VERIFIED_NONE
    if facts.better_than_control is False:
        return Verdict.VERIFIED_LIKE_OWN
    return Verdict.VERIFIED_TAKE


def verdict_of(run: Run, solo: Verified | None) -> Verdict:
    """The verdict on a run.

    Args:
        run: the run.
        solo: what its solo runs show (`verified`). If there are solo runs of heads, they decide.
    """
    if solo is not None and solo.order:
        best = solo.best
        over_control = solo.over_control.get(best)
        gain = solo.over_none[best]
        return decide_verified(
            SoloFacts(
                gain.value,
                solo.seeds,
                gain.better,
                over_control.better if over_control is not None else None,
            )
        )
    return decide(search_facts(run))


def search_facts(run: Run) -> SearchFacts:
    """The facts of a run that the verdict depends on."""
    rows = ranked(run.ranking)
    peers = contenders(rows)
    heads = [row for row in peers if not row.control]
    controls = [row for row in peers if row.control]
    return SearchFacts(
        last_rung=last_rung(run),
        candidates=len(rows),
        healthy=bool(peers),
        labelled=run.facts.get("labelled") is not False,
        base_learnt=base_has_learnt(run),
        accuracies=tuple(row.accuracy for row in peers),
        first_is_control=bool(peers) and peers[0].control,
        heads=len(heads),
        controls=len(controls),
        ahead_of_controls=bool(heads) and not like_controls(run, heads[0], controls),
    )


def like_controls(run: Run, head: Ranked, controls: Sequence[Ranked]) -> list[str]:
    """The controls that a head is not ahead of beyond error."""
    return [row.candidate for row in controls if not clearly_ahead(head, row, run)]


def saturated(accuracies: Sequence[float]) -> bool:
    """Whether all accuracies are at 100 % or all at 0 %; False if one is unknown."""
    return bool(accuracies) and (
        all(each >= SATURATED for each in accuracies)
        or all(each <= 1 - SATURATED for each in accuracies)
    )
