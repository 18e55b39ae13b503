"""The scores that calibration compares, each a column computed from the tables of searches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from headsearch.errors import UserError
from headsearch.runs.run import Run


def of_search(run: Run, index: int, back: int) -> pd.DataFrame:
    """The scores of a search; every seed of every search counts as one of its own."""
    found = search_scores(run, back)
    return found.assign(seed=[f"{index}-{seed}" for seed in found["seed"]])


def search_scores(run: Run, back: int = 0) -> pd.DataFrame:
    """`candidate, seed` and every score of `SCORES`, of the heads that the last rung saw.

    Args:
        run: a search, whose scores are those on the labels that may choose.
        back: how many rungs before the last; none are left at rung 0 and before.

    Raises:
        UserError: the run was made before scores.csv was written.
    """
    if run.scores.empty:
        raise UserError(f"{run.path}: no scores.csv with scores of a rung in it: search again")
    rungs = run.scores["rung"]
    final = run.scores[rungs == rungs.max()]
    at = run.scores[(rungs == rungs.max() - back) & (rungs > 0)]
    at = at[at["candidate"].isin(final["candidate"])].merge(
        run.ranking[["candidate", "params_m", "gflops"]], on="candidate"
    )
    return scores_from(at)


def scores_from(at: pd.DataFrame) -> pd.DataFrame:
    """`candidate, seed` and every score, from rows of scores.csv with the heads' sizes."""
    scores = {name: of(at) for name, of in SCORES.items()}
    return pd.DataFrame({"candidate": at["candidate"], "seed": at["seed"], **scores})


def _accuracy(at: pd.DataFrame) -> pd.Series[float]:
    return at[["choose_knn", "choose_linear"]].mean(axis=1)


def _base_accuracy(at: pd.DataFrame) -> pd.Series[float]:
    return at[["base_choose_knn", "base_choose_linear"]].mean(axis=1)


def _ranks(at: pd.DataFrame, score: pd.Series[float]) -> pd.Series[float]:
    """The share of the heads of its seed that a head is no worse than."""
    return score.groupby(at["seed"]).rank(pct=True)


SCORES: dict[str, Callable[[pd.DataFrame], pd.Series[float]]] = {
    "balanced": lambda at: np.sqrt(at["discrepancy"].clip(lower=0) * _accuracy(at)),
    "discrepancy": lambda at: at["discrepancy"],
    "cka": lambda at: at["cka"],
    "mutual_knn": lambda at: at["mutual_knn"],
    "procrustes": lambda at: at["procrustes"],
    "head_knn": lambda at: at["choose_knn"],
    "head_linear": lambda at: at["choose_linear"],
    "head_accuracy": _accuracy,
    "head_minus_base": lambda at: _accuracy(at) - _base_accuracy(at),
    "mean_of_ranks": lambda at: (_ranks(at, at["discrepancy"]) + _ranks(at, _accuracy(at))) / 2,
    "effective_rank": lambda at: at["effective_rank"],
    "params_m": lambda at: at["params_m"],
    "gflops": lambda at: at["gflops"],
}
"""Each score of a head, larger is better, from scores.csv and the head's size: `discrepancy` by the
measure that the search used, accuracies on the labels that may choose. Parameters and GFLOPs are
what a score has to beat."""
