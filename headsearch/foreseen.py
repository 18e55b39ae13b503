"""Which candidates a search is going to ask for, found out without a study on disk."""

from __future__ import annotations

import optuna

from headsearch.entrants import ask_for_cohorts
from headsearch.preparation import Prepared
from headsearch.space import Candidate


def foreseen_cohorts(prepared: Prepared) -> list[list[Candidate]]:
    """The cohorts of a search, in order, as far as they are known before it begins.

    Of a space that is listed that is all of them; of one that is sampled the first, since what
    comes after it depends on the scores.
    """
    study = optuna.create_study(direction="maximize")
    cohorts = []
    asked = ask_for_cohorts(study, prepared.space, prepared.listing, prepared.config)
    for _, entrants in asked:
        cohorts.append([entrant.candidate for entrant in entrants])
        if prepared.listing is None:
            break
    return cohorts
