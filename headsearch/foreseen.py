"""Which candidates a search is going to ask for, found out without a study on disk."""

from __future__ import annotations

import optuna

from headsearch.entrants import ask_for_cohort, cohort_sizes, enqueue, planned
from headsearch.models.space import Candidate
from headsearch.preparation import Prepared


def foreseen_cohorts(prepared: Prepared) -> list[list[Candidate]]:
    """The cohorts of a search, in order, as far as they are known before it begins.

    Of a space that is listed that is all of them; of one that is sampled the first, since what
    comes after it depends on the scores.
    """
    study = optuna.create_study(direction="maximize")
    space, listing, config = prepared.space, prepared.listing, prepared.config
    sizes = cohort_sizes(planned(space, listing, config), config.cohort)
    if listing is None:
        del sizes[1:]
    enqueue(study, space, listing)
    known: dict[int, int] = {}
    cohorts = []
    for index, size in enumerate(sizes):
        entrants = ask_for_cohort(study, space, config, index, size, known)
        known |= {entrant.trial.number: index for entrant in entrants}
        if entrants:
            cohorts.append([entrant.candidate for entrant in entrants])
    return cohorts
