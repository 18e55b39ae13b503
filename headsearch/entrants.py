"""Which candidates train together: a small space is enumerated, a large one is sampled.

Optuna holds one trial a candidate, whichever way it was found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from headsearch.config.settings import RunConfig
from headsearch.models.space import Candidate, Listing, ResolvedSpace
from headsearch.samplers import make_sampler

TRIES = 30
"""How often in a row a sampler may propose what is known or excluded: first the run's own, then
uniform draws, and then the space counts as exhausted."""


@dataclass(frozen=True)
class Entrant:
    """A candidate with its Optuna trial."""

    candidate: Candidate
    trial: optuna.Trial


def cohort_sizes(count: int, at_once: int) -> list[int]:
    """How `count` heads are shared out to as few cohorts of at most `at_once` as will do, evenly.

    Heads are pruned against their cohort, so a small last cohort would judge by another measure.
    """
    cohorts = max(1, math.ceil(count / at_once))
    return [count // cohorts + (index < count % cohorts) for index in range(cohorts)]


def planned(space: ResolvedSpace, listing: Listing | None, config: RunConfig) -> int:
    """How many candidates a run will try: all of a small space, else `--trials`."""
    if listing is not None:
        return len(listing.candidates)
    return config.trials


def enqueue(study: optuna.Study, space: ResolvedSpace, listing: Listing | None) -> None:
    """Lets a study ask for all candidates of a small space in their order, else for controls first.

    What it knows already is left out.
    """
    for candidate in listing.candidates if listing is not None else space.controls:
        study.enqueue_trial(dict(candidate.trial_params), skip_if_exists=True)


def ask_for_cohort(
    study: optuna.Study,
    space: ResolvedSpace,
    config: RunConfig,
    index: int,
    size: int,
    known: Mapping[int, int],
) -> list[Entrant]:
    """Asks Optuna for the candidates of a cohort, in the order they come.

    To be called when the cohort before is finished, so that the sampler learns from it. A study
    that is ahead of the run, which may have lost its latest snapshots, is gone on with: what was
    asked for is not asked for again, and enters in the order in which it was.

    Args:
        size: how many; fewer where no new ones come.
        known: the cohort of candidates that have entered one, by the number of their trials.
    """
    trials = study.get_trials(deepcopy=False)
    inside = [trial for trial in trials if known.get(trial.number) == index]
    asked = [t for t in trials if t.number not in known and "cohort" in t.user_attrs]
    entrants = [
        Entrant(space.suggest(trial), optuna.Trial(study, trial._trial_id))
        for trial in [*inside, *asked][: max(size, len(inside))]
    ]
    while len(entrants) < size:
        entrant = _ask(study, space, config)
        if entrant is None:
            break
        entrants.append(entrant)
        _describe(entrant, index)
    return entrants


def _ask(study: optuna.Study, space: ResolvedSpace, config: RunConfig) -> Entrant | None:
    """A trial of a new candidate that the constraints permit, None when none comes.

    A sampler's random state is in no storage: it is made anew for each trial, from the seed and
    the trial's number, so that a resumed study goes on as it would have.
    """
    for attempt in range(2 * TRIES):
        trials = study.get_trials(deepcopy=False)
        known = {t.user_attrs["candidate"] for t in trials if "cohort" in t.user_attrs}
        left = [t for t in trials if t.state == TrialState.RUNNING and "cohort" not in t.user_attrs]
        name = config.sampler if attempt < TRIES else "random"
        number = left[0].number if left else len(trials)
        study.sampler = make_sampler(name, config.seed, number)
        trial = optuna.Trial(study, left[0]._trial_id) if left else study.ask()
        candidate = space.suggest(trial)
        reason = "tried already" if candidate.name in known else space.excluded(candidate)
        if reason is None:
            return Entrant(candidate, trial)
        trial.set_user_attr("candidate", candidate.name)
        trial.set_user_attr("reason", reason)
        study.tell(trial, state=TrialState.FAIL)
    return None


def _describe(entrant: Entrant, cohort: int) -> None:
    candidate, trial = entrant.candidate, entrant.trial
    trial.set_user_attr("candidate", candidate.name)
    trial.set_user_attr("control", candidate.control)
    trial.set_user_attr("cohort", cohort)  # last: with it, the trial is an entrant
