"""The scores that calibration compares, each computed as a column from the tables of a search."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from headsearch.errors import UserError
from headsearch.runs.other_data import OTHER_DATA_RANKINGS
from headsearch.runs.run import Run
from headsearch.runs.tables import FURTHER_SCORES


def scores_of_search(run: Run, index: int, back: int) -> pd.DataFrame:
    """The scores of one of several searches, its seeds renamed to be unique among all of them.

    Args:
        run: the search.
        index: of the search.
        back: how many rungs before the last.
    """
    scores = search_scores(run, back)
    return scores.assign(seed=[f"{index}-{seed}" for seed in scores["seed"]])


def search_scores(run: Run, back: int = 0) -> pd.DataFrame:
    """The columns `candidate, seed` and every score of `SCORES`, of the heads at the last rung.

    Args:
        run: a search; its accuracies are on the labels that may choose.
        back: how many rungs before the last. Rung 0 and before give no rows.

    Raises:
        UserError: the run was made before scores.csv was written.
    """
    if run.scores.empty:
        raise UserError(f"{run.path}: no scores.csv with scores of a rung in it: search again")
    scores = with_last_absorption(run.scores)
    rungs = scores["rung"]
    final = scores[rungs == rungs.max()]
    rows = scores[(rungs == rungs.max() - back) & (rungs > 0)]
    rows = rows[rows["candidate"].isin(final["candidate"])].merge(
        run.ranking[["candidate", "params_m", "gflops"]], on="candidate"
    )
    return scores_from(rows)


def with_last_absorption(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows with absorption as it was last measured, because only some rungs measure it.

    Args:
        scores: rows of scores.csv, of all rungs.
    """
    ordered = scores.sort_values("rung", kind="stable")
    absorption = ordered.groupby(["candidate", "seed"])["absorption"].ffill()
    return scores.assign(absorption=absorption)


def scores_from(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns `candidate, seed` and every score, from scores.csv with the heads' sizes."""
    scores = {name: score(rows) for name, score in SCORES.items()}
    return pd.DataFrame({"candidate": rows["candidate"], "seed": rows["seed"], **scores})


def collapsed_last(scores: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The scores with a row for every head that was set aside as collapsed, below all others.

    Args:
        scores: the scores of heads that were scored to the end: `candidate, seed` and a column a
            score.
        table: rows of scores.csv with the heads' sizes, at all rungs.

    Returns:
        `scores` with further rows. Sizes are known of collapsed heads too; every other score of
        theirs is below the lowest of the same seed.
    """
    heads = table.drop_duplicates(["candidate", "seed"], keep="last")
    gone = heads.merge(scores[["candidate", "seed"]], how="left", indicator=True)
    gone = gone[gone["_merge"] == "left_only"]
    rows = gone[["candidate", "seed"]].copy()
    lowest = scores.groupby("seed").min(numeric_only=True)
    for name in scores.columns.drop(["candidate", "seed"]):
        known = name in SIZES
        rows[name] = gone[name] if known else rows["seed"].map(lowest[name]) - 1
    return pd.concat([scores, rows], ignore_index=True)


def _accuracy(rows: pd.DataFrame) -> pd.Series[float]:
    return rows[["choose_knn", "choose_linear"]].mean(axis=1)


def _base_accuracy(rows: pd.DataFrame) -> pd.Series[float]:
    return rows[["base_choose_knn", "base_choose_linear"]].mean(axis=1)


def _mean_of(rows: pd.DataFrame, columns: Sequence[str]) -> pd.Series[float]:
    """The mean of some columns; NaN where one is empty or the table lacks it."""
    return rows.reindex(columns=list(columns)).mean(axis=1, skipna=False)


def _ranks(rows: pd.DataFrame, score: pd.Series[float]) -> pd.Series[float]:
    """The share of the heads of the same seed that a head is at least as good as."""
    return score.groupby(rows["seed"]).rank(pct=True)


SIZES = ("params_m", "gflops")
"""The scores that are known before a head trains."""

SCORES: dict[str, Callable[[pd.DataFrame], pd.Series[float]]] = {
    "balanced": lambda rows: np.sqrt(rows["discrepancy"].clip(lower=0) * _accuracy(rows)),
    "discrepancy": lambda rows: rows["discrepancy"],
    "cka": lambda rows: rows["cka"],
    "mutual_knn": lambda rows: rows["mutual_knn"],
    "procrustes": lambda rows: rows["procrustes"],
    "head_knn": lambda rows: rows["choose_knn"],
    "head_linear": lambda rows: rows["choose_linear"],
    "head_accuracy": _accuracy,
    "head_minus_base": lambda rows: _accuracy(rows) - _base_accuracy(rows),
    **{
        name: lambda rows, name=name: rows[name]  # type: ignore[misc]
        for name in FURTHER_SCORES
    },
    **{
        name: lambda rows, columns=columns: _mean_of(rows, columns)  # type: ignore[misc]
        for name, columns in OTHER_DATA_RANKINGS.items()
    },
    "mean_of_ranks": lambda rows: (
        (_ranks(rows, rows["discrepancy"]) + _ranks(rows, _accuracy(rows))) / 2
    ),
    "effective_rank": lambda rows: rows["effective_rank"],
    "params_m": lambda rows: rows["params_m"],
    "gflops": lambda rows: rows["gflops"],
}
"""The scores: name to a function from rows of scores.csv with the heads' sizes to a column.

Larger is better. `discrepancy` is by the measure that the search used; accuracies are on the labels
that may choose. `params_m` and `gflops` are the trivial scores that any other has to beat.
"""
