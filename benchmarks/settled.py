"""The rung at which a search would end under `--stop settled`, from its scores at all rungs."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from headsearch.report.statistics.rank_correlation import tau_b
from headsearch.study.stopping import SETTLED


def settled_rung(score_RH: npt.NDArray[np.float64]) -> int:
    """The first rung, from 2 on, at which the order of the heads has settled; the last if none.

    Args:
        score_RH: the score of each of H heads at rungs 1 to R.
    """
    for rung, (before_H, now_H) in enumerate(itertools.pairwise(score_RH), start=2):
        if tau_b(before_H, now_H) >= SETTLED:
            return rung
    return len(score_RH)
