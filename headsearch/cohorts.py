"""Which candidates train together: a small space is enumerated, a large one is sampled.

Optuna holds one trial a candidate, whichever way it was found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from headsearch.config import RunConfig
from headsearch.space import Candidate, Listing, ResolvedSpace

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


def cohorts(
    study: optuna.Study, space: ResolvedSpace, listing: Listing | None, config: RunConfig
) -> Iterator[list[Entrant]]:
    """Asks Optuna for the run's candidates, a cohort at a time.

    Controls come first. The next cohort is asked for only when the last one is finished, so that
    the sampler learns from it.
    """
    known: set[str] = set()
    first = list(listing.candidates if listing is not None else space.controls)
    for candidate in first:
        study.enqueue_trial(dict(candidate.trial_params))
    for index, size in enumerate(cohort_sizes(planned(space, listing, config), config.cohort)):
        entrants: list[Entrant] = []
        while len(entrants) < size:
            entrant = _ask(study, space, known)
            if entrant is None:
                break
            known.add(entrant.candidate.name)
            entrants.append(entrant)
            _describe(entrant, index)
        if entrants:
            yield entrants
        if len(entrants) < size:
            return


def _ask(study: optuna.Study, space: ResolvedSpace, known: set[str]) -> Entrant | None:
    """A trial of a new candidate that the constraints permit, None when none comes."""
    for attempt in range(2 * TRIES):
        if attempt == TRIES:
            study.sampler = optuna.samplers.RandomSampler(seed=len(known))
        trial = study.ask()
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
    trial.set_user_attr("cohort", cohort)
    trial.set_user_attr("control", candidate.control)
