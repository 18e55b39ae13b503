"""Pruners: the synchronous rung pruner of headsearch, and Optuna's pruners adapted to cohorts.

A *cohort* is the candidates that train together, each of them one Optuna trial. A *rung* is a point
in training at which all candidates of the cohort are scored. The search calls `trial.report` for
every live candidate, with the rung's index (0, 1, 2, …) as the step, before it calls `should_prune`
for any of them. No pruner here prunes at rung 0, which scores the untrained network, or prunes a
control. At the last rung nothing is left to save, and the search does not call `should_prune`.

User attributes describe a trial: `cohort` is equal for the candidates that train together (trials
without it form one cohort), `generation` for those of all cohorts that a rung compares with
`--prune-among all`, and `control` is True for a control.
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
    """Whether the trial is a control: never pruned, and not counted among the candidates."""
    return trial.user_attrs.get("control") is True


COHORT, GENERATION = "cohort", "generation"
"""The attributes of trials that are equal for those that a rung compares."""


def ranked_peers(study: Study, trial: FrozenTrial, step: int, among: str = COHORT) -> list[int]:
    """The trial numbers of the cohort's candidates that reported at `step`, best first.

    Controls and failed trials (diverged or collapsed heads) are left out. A trial that was pruned
    at this same step is included, since the others are compared with it, so that the result does
    not depend on who was pruned first. NaN ranks last, and ties are broken by the lower number, so
    that the order depends on the reports alone.

    Args:
        study: the study.
        trial: one of the candidates.
        step: the rung.
        among: the attribute that is equal for the trials that are compared.
    """
    sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
    group = trial.user_attrs.get(among)

    def sort_key(peer: FrozenTrial) -> tuple[bool, float, int]:
        score = peer.intermediate_values[step]
        missing = math.isnan(score)
        return missing, 0.0 if missing else sign * score, peer.number

    peers = [
        peer
        for peer in study.get_trials(deepcopy=False)
        if peer.user_attrs.get(among) == group
        and step in peer.intermediate_values
        and peer.state != TrialState.FAIL
        and not is_control(peer)
    ]
    return [peer.number for peer in sorted(peers, key=sort_key)]


def kept(candidates: int, eta: float, min_keep: int) -> int:
    """The number of candidates that the rung pruner keeps, max(min_keep, ⌈candidates / eta⌉).

    It may exceed `candidates`.
    """
    # In floating point candidates / eta may lie just above a whole number: 21 / 1.4 above 15.
    return max(min_keep, math.ceil(candidates / eta - 1e-9))


class RungPruner(BasePruner):
    """Keeps the best 1/eta of a cohort's candidates at every rung, but at least `min_keep`.

    The decision depends only on the cohort's reports at the rung. It is the same in any order of
    calls, after a reload from storage, and in any process. Of n candidates at the rung,
    max(min_keep, ⌈n / eta⌉) stay. Controls stay too and do not count as candidates.

    Args:
        eta: the reduction factor, 1 or more; 2 halves the cohort at every rung, 1 prunes nothing.
        min_keep: the minimum number of candidates to keep, 1 or more.
        among: the attribute that is equal for the trials that are compared.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, eta: float = 2.0, min_keep: int = 3, among: str = COHORT) -> None:
        if not (math.isfinite(eta) and eta >= 1):
            raise ValueError(f"eta must be a number of 1 or more (1/eta are kept), but got {eta=}.")
        if min_keep < 1:
            raise ValueError(f"min_keep must be 1 or more, but got {min_keep=}.")
        self._eta = eta
        self._min_keep = min_keep
        self._among = among

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None or step == 0 or is_control(trial):
            return False
        candidates = ranked_peers(study, trial, step, self._among)
        return trial.number not in candidates[: kept(len(candidates), self._eta, self._min_keep)]


class GuardedPruner(BasePruner):
    """Wraps one of Optuna's pruners so that it follows the rules of a cohort.

    The inner pruner is not called at rung 0 or for controls, and the `min_keep` best candidates of
    a cohort stay at every rung whatever it decides: successive halving alone sometimes prunes all.

    Args:
        pruner: the inner pruner.
        min_keep: the minimum number of candidates to keep, 1 or more.

    Raises:
        ValueError: if `min_keep` is out of range.
    """

    def __init__(self, pruner: BasePruner, min_keep: int = 3) -> None:
        if min_keep < 1:
            raise ValueError(f"min_keep must be 1 or more, but got {min_keep=}.")
        self._pruner = pruner
        self._min_keep = min_keep

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None or step == 0 or is_control(trial):
            return False
        # Called for the best candidates too: successive halving stores the rung that each trial
        # has reached when it is called.
        prunes = self._pruner.prune(study, trial)
        return prunes and trial.number not in ranked_peers(study, trial, step)[: self._min_keep]


@dataclass(frozen=True)
class PrunerChoice:
    """An entry of `PRUNERS`: a pruner that a run can select by name.

    Attributes:
        name: the key in `PRUNERS`.
        help: one line for the user that says what it does and when it works.
        make: makes the pruner from eta, min_keep and the index of the last rung.
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


# Optuna 5.0's own pruners, tried on 3 cohorts of 12 candidates that advance in lockstep, 4 rungs:
# - Median and percentile pruned nothing in the first cohort. In later cohorts their decisions did
#   not depend on the order of the calls.
# - Successive halving without the guard kept 12, 1 or 4 candidates of the first cohort when called
#   from worst to best, from best to worst, or by trial number, and in one cohort none at all.
# - Hyperband likewise kept 12, 4 or 5.
# Left out:
# - Wilcoxon: its steps are problem instances, not rungs, and it pruned a whole cohort.
# - Threshold: no fixed bound fits a score that grows from rung to rung.
# - Patient: it waits until a candidate's own score stops improving, which few rungs never show.
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
            "prunes below the median of finished candidates; works from the second cohort on",
            lambda eta, min_keep, rungs: _percentile(50.0, min_keep),
        ),
        PrunerChoice(
            "percentile",
            "prunes below the best 1/eta of finished candidates; works from the second cohort on",
            lambda eta, min_keep, rungs: _percentile(100.0 / eta, min_keep),
        ),
        PrunerChoice(
            "successive-halving",
            "asynchronous halving at rungs 1, eta, eta², …; favours candidates called first",
            lambda eta, min_keep, rungs: _successive_halving(eta, min_keep),
        ),
        PrunerChoice(
            "hyperband",
            "asynchronous halving in brackets that begin at later rungs; favours the first called",
            _hyperband,
        ),
    )
}


def make_pruner(
    name: str, *, eta: float, min_keep: int, rungs: int, among: str = COHORT
) -> BasePruner:
    """Makes the pruner of this name.

    Args:
        name: a key of `PRUNERS`.
        eta: the reduction factor, 1 or more: 1/eta of the candidates stay at a rung. Successive
            halving and Hyperband need whole numbers of 2 or more and take the nearest.
        min_keep: the minimum number of a cohort's candidates to keep at a rung, 1 or more.
        rungs: the index of the last rung, 1 or more.
        among: what the rung pruner compares: a cohort, or with `all` a generation of cohorts.

    Raises:
        UserError: if no pruner has this name.
        ValueError: if another argument is out of range.
    """
    if name not in PRUNERS:
        raise unknown("pruner", name, PRUNERS)
    # Validates eta and min_keep, whose bounds all pruners share.
    by_rung = RungPruner(eta, min_keep, GENERATION if among == "all" else COHORT)
    if rungs < 1:
        raise ValueError(f"rungs must be 1 or more, but got {rungs=}.")
    return by_rung if name == "rung" else PRUNERS[name].make(eta, min_keep, rungs)
