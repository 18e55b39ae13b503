"""Who leaves at a rung: the synchronous rung pruner, and Optuna's own.

The study reports every live candidate of a cohort at a rung, with the rung's index as the step
(0, 1, 2, …), before it asks `should_prune` of any. At rung 0 and of controls all pruners here say
no; at the last rung there is nothing left to save, and the study does not ask.

A trial says what it is by two user attributes: `cohort`, equal among the candidates that train
together (trials without it are one cohort), and `control`, True for a control.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import optuna
from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from headsearch.errors import unknown


def is_control(trial: FrozenTrial) -> bool:
    """Whether the trial is a control: never pruned, and in nobody's way."""
    return trial.user_attrs.get("control") is True


def entry(study: Study, trial: FrozenTrial, step: int) -> list[int]:
    """The numbers of the cohort's candidates that reported at `step`, best first.

    Controls and failed trials (diverged or collapsed heads) are not among them. A trial that was
    pruned at this very step is: it took part in the contest. NaN comes last, and of equal scores
    the lower number first, so the order depends on nothing but the reports.
    """
    sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
    cohort = trial.user_attrs.get("cohort")

    def place_of(peer: FrozenTrial) -> tuple[bool, float, int]:
        score = peer.intermediate_values[step]
        missing = math.isnan(score)
        return missing, 0.0 if missing else sign * score, peer.number

    peers = [
        peer
        for peer in study.get_trials(deepcopy=False)
        if peer.user_attrs.get("cohort") == cohort
        and step in peer.intermediate_values
        and peer.state != TrialState.FAIL
        and not is_control(peer)
    ]
    return [peer.number for peer in sorted(peers, key=place_of)]


def kept(candidates: int, eta: float, min_keep: int) -> int:
    """How many of so many candidates the rung pruner keeps; may be more than there are."""
    # n / eta of a decimal eta may come out just above a whole number: 21 / 1.4 of 15
    return max(min_keep, math.ceil(candidates / eta - 1e-9))


class RungPruner(BasePruner):
    """Keeps the best 1/eta of a cohort's candidates at every rung, `min_keep` at least.

    The decision is a function of the cohort's reports at the rung alone: it is the same in
    whatever order trials are asked and told, after a reload from storage, and from any process.
    With n candidates at the rung, max(min_keep, ⌈n / eta⌉) stay. Controls stay as well and take
    no candidate's place.

    Args:
        eta: 1 or more; 2 halves the cohort at every rung, 1 prunes nothing.
        min_keep: how many candidates stay however few there are; 1 or more.
    """

    def __init__(self, eta: float = 2.0, min_keep: int = 3) -> None:
        if not (math.isfinite(eta) and eta >= 1):
            raise ValueError(f"The share kept is 1/eta, so eta must be 1 or more, but got {eta=}.")
        if min_keep < 1:
            raise ValueError(f"At least one candidate must stay, but got {min_keep=}.")
        self._eta = eta
        self._min_keep = min_keep

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None or step == 0 or is_control(trial):
            return False
        candidates = entry(study, trial, step)
        return trial.number not in candidates[: kept(len(candidates), self._eta, self._min_keep)]


class GuardedPruner(BasePruner):
    """One of Optuna's pruners, held to the rules of a cohort.

    It is not asked at rung 0 nor of controls, and the `min_keep` best of a cohort's candidates at
    a rung stay whatever it says (successive halving would at times prune all).
    """

    def __init__(self, pruner: BasePruner, min_keep: int = 3) -> None:
        if min_keep < 1:
            raise ValueError(f"At least one candidate must stay, but got {min_keep=}.")
        self._pruner = pruner
        self._min_keep = min_keep

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None or step == 0 or is_control(trial):
            return False
        # asked of the best as well: successive halving remembers whom it was asked about
        wanted = self._pruner.prune(study, trial)
        return wanted and trial.number not in entry(study, trial, step)[: self._min_keep]


@dataclass(frozen=True)
class PrunerChoice:
    """A pruner that a run can name.

    Attributes:
        name: the name in `PRUNERS`.
        help: one line for the user: when it works.
        make: the pruner, from eta, min_keep and the index of the last rung.
    """

    name: str
    help: str
    make: Callable[[float, int, int], BasePruner]


def _percentile(percentile: float, min_keep: int) -> BasePruner:
    inner = optuna.pruners.PercentilePruner(percentile, n_startup_trials=1)
    return GuardedPruner(inner, min_keep)


def _successive_halving(eta: float, min_keep: int) -> BasePruner:
    inner = optuna.pruners.SuccessiveHalvingPruner(
        min_resource=1, reduction_factor=max(2, round(eta))
    )
    return GuardedPruner(inner, min_keep)


def _hyperband(eta: float, min_keep: int, rungs: int) -> BasePruner:
    inner = optuna.pruners.HyperbandPruner(
        min_resource=1, max_resource=rungs, reduction_factor=max(2, round(eta))
    )
    return GuardedPruner(inner, min_keep)


# What Optuna 5.0's own pruners do with a cohort in lockstep was tried on 3 cohorts of 12, 4 rungs:
# median and percentile pruned nothing in the first cohort and the same in any order later; without
# the guard successive halving kept 12, 1 or 4 of the first cohort as it was asked from worst to
# best, from best to worst or by number, and none at all in one cohort; Hyperband likewise 12, 4
# or 5. Left out: Wilcoxon's (its steps are problem instances, not rungs; it pruned a whole cohort),
# the threshold pruner (no bound fits a score that grows from rung to rung), and the patient one (it
# needs a candidate's own score to stop improving, and few rungs never show that).
PRUNERS: dict[str, PrunerChoice] = {
    entry.name: entry
    for entry in (
        PrunerChoice(
            "rung",
            "keeps the best 1/eta of each cohort at each rung; works from the first cohort on",
            lambda eta, min_keep, rungs: RungPruner(eta, min_keep),
        ),
        PrunerChoice(
            "none",
            "prunes nothing: every candidate trains to the end",
            lambda eta, min_keep, rungs: optuna.pruners.NopPruner(),
        ),
        PrunerChoice(
            "median",
            "prunes what is below the median of finished candidates; from the second cohort on",
            lambda eta, min_keep, rungs: _percentile(50.0, min_keep),
        ),
        PrunerChoice(
            "percentile",
            "prunes what is below the best 1/eta of finished candidates; from the second cohort on",
            lambda eta, min_keep, rungs: _percentile(100.0 / eta, min_keep),
        ),
        PrunerChoice(
            "successive-halving",
            "asynchronous halving at rungs 1, eta, eta², …; favours candidates asked early",
            lambda eta, min_keep, rungs: _successive_halving(eta, min_keep),
        ),
        PrunerChoice(
            "hyperband",
            "asynchronous halving in brackets that begin at later rungs; favours those asked early",
            _hyperband,
        ),
    )
}


def make_pruner(name: str, *, eta: float, min_keep: int, rungs: int) -> BasePruner:
    """The pruner of this name.

    Args:
        name: a name in `PRUNERS`.
        eta: 1/eta of the candidates stay at a rung; 1 or more. Successive halving and Hyperband
            need whole numbers from 2: they take the nearest.
        min_keep: how many candidates of a cohort stay at a rung at least.
        rungs: the index of the last rung, 1 or more.

    Raises:
        UserError: no such pruner.
        ValueError: a value out of range.
    """
    if name not in PRUNERS:
        raise unknown("pruner", name, PRUNERS)
    RungPruner(eta, min_keep)  # the bounds are the same for all
    if rungs < 1:
        raise ValueError(f"Rungs after rung 0 must be at least 1, but got {rungs=}.")
    return PRUNERS[name].make(eta, min_keep, rungs)
