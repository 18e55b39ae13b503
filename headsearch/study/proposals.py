"""Which candidates train together: a small space is listed in full, a large one is sampled.

Optuna samples. Each candidate is one Optuna trial, whether it was listed or sampled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from headsearch.config.settings import RunConfig
from headsearch.errors import UserError
from headsearch.models.space import Candidate, Listing, ResolvedSpace
from headsearch.study.samplers import make_sampler

TRIES = 30
"""How many times in a row a sampler may propose a candidate that is known or excluded. After as
many uniform draws that fail too, the space counts as exhausted."""

TRIED = "tried already"
"""The reason recorded for a drawn candidate that the study has already."""


@dataclass(frozen=True)
class Proposal:
    """A candidate with its Optuna trial."""

    candidate: Candidate
    trial: optuna.Trial


def cohort_sizes(count: int, at_once: int) -> list[int]:
    """The size of each cohort: as few cohorts of at most `at_once` heads as possible, evenly.

    Sizes are even because the pruner compares heads within their own cohort: in a small last
    cohort, a head would have fewer rivals.
    """
    cohorts = max(1, math.ceil(count / at_once))
    return [count // cohorts + (index < count % cohorts) for index in range(cohorts)]


def candidate_count(listing: Listing | None, config: RunConfig) -> int:
    """The number of candidates that a run tries: all of a listed space, else `--trials`."""
    return config.trials if listing is None else len(listing.candidates)


def enqueue(study: optuna.Study, space: ResolvedSpace, listing: Listing | None) -> None:
    """Enqueues all candidates of a listed space in their order, or only the controls of another.

    Candidates that the study holds already are skipped.
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
    """Asks Optuna for the candidates of a cohort.

    Call it when the cohort before has finished, so that the sampler learns from its scores. The
    study may be ahead of the run if the process died before a snapshot was written. Trials that
    the study holds already are therefore used first, in their order, before new ones are asked for.

    Args:
        index: the index of the cohort.
        size: how many candidates to return; fewer are returned if the space is exhausted.
        known: the cohort of each candidate that has one already, by trial number.
    """
    trials = study.get_trials(deepcopy=False)
    in_cohort = [trial for trial in trials if known.get(trial.number) == index]
    # Asked for by an earlier process that died before it wrote a snapshot with them.
    asked = [t for t in trials if t.number not in known and "cohort" in t.user_attrs]
    proposals = [
        Proposal(space.suggest(trial), optuna.Trial(study, trial._trial_id))
        for trial in [*in_cohort, *asked][: max(size, len(in_cohort))]
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
    """Yields the cohorts that a run would ask for, using a study in memory without any scores.

    For a listed space these are the cohorts of the run. For a sampled space only the first one is
    certain: a sampler that learns proposes later ones from the scores of earlier ones.
    """
    study = optuna.create_study(direction="maximize")
    enqueue(study, space, listing)
    known: dict[int, int] = {}
    for index, size in enumerate(cohort_sizes(candidate_count(listing, config), config.cohort)):
        proposals = ask_for_cohort(study, space, config, index, size, known)
        known |= {proposal.trial.number: index for proposal in proposals}
        if proposals:
            yield proposals
        if len(proposals) < size:  # the space is exhausted
            return


def check_can_be_sampled(space: ResolvedSpace, config: RunConfig) -> None:
    """Checks that a sampler finds a head besides the controls.

    Raises:
        UserError: the constraints exclude all heads that it draws.
    """
    study = optuna.create_study(direction="maximize")
    enqueue(study, space, None)
    controls = len(space.controls)
    proposals = ask_for_cohort(study, space, config, 0, controls + 1, {})
    if any(not proposal.candidate.control for proposal in proposals):
        return
    refused = [
        trial.user_attrs
        for trial in study.get_trials(deepcopy=False)
        if trial.state == TrialState.FAIL and trial.user_attrs["reason"] != TRIED
    ]
    last = f"; {refused[-1]['candidate']}: {refused[-1]['reason']}" if refused else ""
    raise UserError(
        f"{space.space.source}: the constraints leave no candidate of the {2 * TRIES} that were "
        f"drawn{last}"
    )


def _ask(study: optuna.Study, space: ResolvedSpace, config: RunConfig) -> Proposal | None:
    """A trial of a new candidate that meets the constraints, or None if the space is exhausted.

    Optuna's storage does not hold a sampler's random state. The sampler is therefore made anew for
    each trial, seeded by the run's seed and the trial's number, so that a resumed study proposes
    what an uninterrupted one would have.
    """
    for attempt in range(2 * TRIES):
        trials = study.get_trials(deepcopy=False)
        known = {t.user_attrs["candidate"] for t in trials if "cohort" in t.user_attrs}
        # A process that died in here may have left a trial without a cohort: use that one first.
        orphans = [
            t for t in trials if t.state == TrialState.RUNNING and "cohort" not in t.user_attrs
        ]
        name = config.sampler if attempt < TRIES else "random"
        number = orphans[0].number if orphans else len(trials)
        study.sampler = make_sampler(name, config.seed, number)
        trial = optuna.Trial(study, orphans[0]._trial_id) if orphans else study.ask()
        candidate = space.suggest(trial)
        reason = TRIED if candidate.name in known else space.excluded(candidate)
        if reason is None:
            return Proposal(candidate, trial)
        trial.set_user_attr("candidate", candidate.name)
        trial.set_user_attr("reason", reason)
        study.tell(trial, state=TrialState.FAIL)
    return None


def _describe(proposal: Proposal, cohort: int) -> None:
    """Records in a trial which candidate it is; only trials with a cohort count as candidates."""
    candidate, trial = proposal.candidate, proposal.trial
    trial.set_user_attr("candidate", candidate.name)
    trial.set_user_attr("control", candidate.control)
    # Last, so that a trial that has a cohort has the other attributes too.
    trial.set_user_attr("cohort", cohort)
