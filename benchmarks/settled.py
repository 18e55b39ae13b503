"""The rung at which a search would end under `--stop settled`, from its scores at all rungs."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pandas as pd

from headsearch.report.statistics.rank_correlation import tau_b
from headsearch.study.stopping import SETTLED, has_learned

Array = npt.NDArray[np.float64]


def settled_rung(score_RH: Array, base_Q: Array, images: int) -> int:
    """The first rung, from 2 on, at which the order of the heads has settled; the last if none.

    Args:
        score_RH: the score of each of H heads at rungs 1 to R.
        base_Q: the accuracy of the base at rungs 0 to R.
        images: the number of images that it is measured on.
    """
    for rung, (before_H, now_H) in enumerate(itertools.pairwise(score_RH), start=2):
        settled = tau_b(before_H, now_H) >= SETTLED
        if settled and has_learned(base_Q[0], base_Q[rung], images):
            return rung
    return len(score_RH)


def base_accuracies(search: pd.DataFrame) -> Array:
    """The base's accuracy on the labels that choose, at rungs 0 to R.

    Args:
        search: rows of scores.csv, of one search and seed.
    """
    both = search[["base_choose_knn", "base_choose_linear"]].mean(axis=1)
    return both.groupby(search["rung"]).mean().to_numpy(dtype=float)
