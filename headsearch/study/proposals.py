"""Which candidates train together: a small space is enumerated, a large one is sampled by Optuna.

Each candidate is one Optuna trial, whether it was enumerated or sampled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from headsearch.config.settings import RunConfig
from headsearch.models.space import Candidate, Listing, ResolvedSpace
from headsearch.study.samplers import make_sampler

TRIES = 30
"""How often in a row a sampler may propose a candidate that is known or excluded. After as many
uniform draws that fail as well, the space counts as exhausted."""


@dataclass(frozen=True)
class Proposal:
    """A candidate with its Optuna trial."""

    candidate: Candidate
    trial: optuna.Trial


def cohort_sizes(count: int, at_once: int) -> list[int]:
    """How many heads each cohort gets: as few cohorts of at most `at_once` as possible, evenly.

    Heads are pruned against their own cohort, so a small last cohort would judge by another
    measure.
    """
    cohorts = max(1, math.ceil(count / at_once))
    return [count // cohorts + (index < count % cohorts) for index in range(cohorts)]


def candidate_count(listing: Listing | None, config: RunConfig) -> int:
    """How many candidates a run will try: all of a listed space, else `--trials`."""
    return config.trials if listing is None else len(listing.candidates)


def enqueue(study: optuna.Study, space: ResolvedSpace, listing: Listing | None) -> None:
    """Enqueues all candidates of a listed space in their order, else the controls alone.

    What the study knows already is skipped.
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
) -> list[Proposal]:
    """Asks Optuna for the candidates of a cohort, in the order they come.

    Call it when the cohort before is finished, so that the sampler learns from it. The study may be
    ahead of the run, whose latest snapshots may be lost: trials that it holds already are taken
    first, in their order, and are not asked for again.

    Args:
        size: how many; fewer are returned where no new ones come.
        known: the cohort of candidates that are in one already, by the number of their trials.
    """
    trials = study.get_trials(deepcopy=False)
    inside = [trial for trial in trials if known.get(trial.number) == index]
    asked = [t for t in trials if t.number not in known and "cohort" in t.user_attrs]
    proposals = [
        Proposal(space.suggest(trial), optuna.Trial(study, trial._trial_id))
        for trial in [*inside, *asked][: max(size, len(inside))]
    ]
    while len(proposals) < size:
        proposal = _ask(study, space, config)
        if proposal is None:
            break
        proposals.append(proposal)
        _describe(proposal, index)
    return proposals


def draw_cohorts(
    space: ResolvedSpace, listing: Listing | None, config: RunConfig
) -> Iterator[list[Proposal]]:
    """The cohorts that a run would ask for, from a study in memory in which nothing ever trains.

    Of a listed space these are the cohorts of the run. Of a sampled one only the first is sure to
    be: a sampler that learns proposes later ones by the scores of those before.
    """
    study = optuna.create_study(direction="maximize")
    enqueue(study, space, listing)
    known: dict[int, int] = {}
    for index, size in enumerate(cohort_sizes(candidate_count(listing, config), config.cohort)):
        proposals = ask_for_cohort(study, space, config, index, size, known)
        known |= {proposal.trial.number: index for proposal in proposals}
        if proposals:
            yield proposals
        if len(proposals) < size:  # no more come
            return


def _ask(study: optuna.Study, space: ResolvedSpace, config: RunConfig) -> Proposal | None:
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
            return Proposal(candidate, trial)
        trial.set_user_attr("candidate", candidate.name)
        trial.set_user_attr("reason", reason)
        study.tell(trial, state=TrialState.FAIL)
    return None


def _describe(proposal: Proposal, cohort: int) -> None:
    """Writes to a trial which candidate it is; only trials with a cohort count as candidates."""
    candidate, trial = proposal.candidate, proposal.trial
    trial.set_user_attr("candidate", candidate.name)
    trial.set_user_attr("control", candidate.control)
    trial.set_user_attr("cohort", cohort)  # last, so that a trial with a cohort has all of them
