"""`--stop settled`: a search ends where the order of its heads hardly changes from rung to rung."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from headsearch.report.statistics.intervals import accuracy_interval, told_apart
from headsearch.report.statistics.rank_correlation import tau_b
from headsearch.runs.incidents import Settled
from headsearch.study.cohort import Cohort
from headsearch.study.state import SearchState

SETTLED = 0.7
"""Kendall's τ of the orders at two rungs from which on the order has settled.

Chosen on results/cifar10; `benchmarks/carry_over` evaluates it (PROTOCOL.md, *Deviations*)."""
LEAST_HEADS = 3
"""The order of fewer heads is too often the same by chance."""


def settle(state: SearchState, cohort: Cohort) -> Settled | None:
    """Makes the current rung the last one if the order of the heads has settled there.

    The base must have learned something by then.

    The first cohort decides, before any of its heads is pruned at this rung; heads of later cohorts
    train as long, so that all of them can be compared.

    Args:
        state: the state of the search.
        cohort: the cohort, scored at its rung.

    Returns:
        What is recorded about it; None if the search goes on.
    """
    if cohort.index or not 2 <= cohort.rung < state.last_rung:
        return None
    heads = {name for name, head in cohort.live.items() if not head.candidate.control}
    if len(heads) < LEAST_HEADS:
        return None
    rows = state.leaderboard.score_rows
    agreement = order_agreement(rows, heads, cohort.rung)
    if not agreement >= SETTLED:  # NaN: all scores are equal
        return None
    untrained, now = (base_accuracy(rows, rung) for rung in (0, cohort.rung))
    if not has_learned(untrained, now, len(state.prepared.data.choose)):
        return None
    step = state.prepared.training.rung_step(cohort.rung)
    settled = Settled(cohort.rung, state.last_rung, step, agreement)
    state.stop_at(settled)
    return settled


def has_learned(untrained: float, now: float, images: int) -> bool:
    """Whether a base is more accurate than its untrained self beyond error.

    Heads on a base that has learned nothing keep their order, which says nothing about their gain.

    Args:
        untrained, now: its accuracies; NaN without labels, which counts as learned.
        images: the number of images of each.
    """
    if math.isnan(now):
        return True
    before, after = (accuracy_interval(each, images) for each in (untrained, now))
    return now > untrained and told_apart(before, after)


def base_accuracy(score_rows: Sequence[Mapping[str, Any]], rung: int) -> float:
    """The base's mean of k-NN and linear accuracy at a rung, on the labels that choose."""
    return fmean(
        row[f"base_choose_{probe}"]
        for row in score_rows
        if row["rung"] == rung
        for probe in ("knn", "linear")
    )


def order_agreement(
    score_rows: Sequence[Mapping[str, Any]], heads: Collection[str], rung: int
) -> float:
    """Kendall's τ-b between the scores of heads at a rung and at the one before.

    Args:
        score_rows: rows of scores.csv; scores are averaged over seeds.
        heads: the names of the heads, all of which were scored at both rungs.
        rung: the later rung.
    """
    before, now = (
        np.array(
            [
                fmean(
                    row["score"]
                    for row in score_rows
                    if row["candidate"] == name and row["rung"] == at
                )
                for name in heads
            ]
        )
        for at in (rung - 1, rung)
    )
    return tau_b(before, now)
