"""`--stop settled`: a search ends where the order of its heads hardly changes from rung to rung."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

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
    agreement = order_agreement(state.leaderboard.score_rows, heads, cohort.rung)
    if not agreement >= SETTLED:  # NaN: all scores are equal
        return None
    step = state.prepared.training.rung_step(cohort.rung)
    settled = Settled(cohort.rung, state.last_rung, step, agreement)
    state.stop_at(settled)
    return settled


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
