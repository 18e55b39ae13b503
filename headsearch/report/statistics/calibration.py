"""Calibration: how well each score of a search ranks heads by their gain in solo runs.

Two tables are compared: solo runs, a row a head and seed; and scores of searches, a row a head and
seed of the search. A score of a head is its mean over searches. A head's true gain is its mean
accuracy over seeds: the accuracy without a head is the same for all, so it does not change the
ranks. Ranks are compared by Kendall's τ-b (`agreement`).

Shapes: H heads, S seeds of solo runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from headsearch.errors import UserError, unknown
from headsearch.report.statistics.agreement import Agreement, agreement
from headsearch.report.statistics.score_columns import (
    SCORES,
    scores_of_search,
)
from headsearch.runs.other_data import OTHER_DATA_RANKINGS
from headsearch.runs.run import Run
from headsearch.runs.tables import CONTROL_FAMILIES, FURTHER_SCORES, NO_HEAD

Array: TypeAlias = npt.NDArray[np.float64]

NAMED_GAPS = 3  # missing cells that an error names


@dataclass(frozen=True)
class Calibration:
    """All scores against the same solo runs.

    Attributes:
        agreements: in the order of the scores.
        heads: how many were compared.
        reliability: R, the share of the variance of the heads' mean gains that another set of seeds
            would reproduce; NaN with one seed.
        ceiling: (2/π) asin √R, the τ that a perfect score would reach with gains this noisy, under
            normality.
    """

    agreements: tuple[Agreement, ...]
    heads: int
    reliability: float
    ceiling: float

    def table(self) -> pd.DataFrame:
        """The table calibration.csv: a row a score."""
        return pd.DataFrame(
            {
                "score": each.score,
                "primary": each.primary,
                "tau": each.tau.value,
                "tau_low": each.tau.low,
                "tau_high": each.tau.high,
                "tau_of_one_search": each.tau_of_one_search,
                "ceiling": self.ceiling,
                "rho": each.rho.value,
                "rho_low": each.rho.low,
                "rho_high": each.rho.high,
                "p": each.p,
                "partial_tau": each.partial,
                "tau_without_family_low": each.without_family[0],
                "tau_without_family_high": each.without_family[1],
                "regret": each.regret,
                "regret_sd": each.regret_sd,
                "best_in_top3": each.best_in_top3,
                "seed_to_seed_tau": each.seed_to_seed,
                "rung_to_rung_tau": each.rung_to_rung,
                "heads": self.heads,
            }
            for each in self.agreements
        )


def calibrate(
    solo: pd.DataFrame,
    scores: pd.DataFrame,
    primary: str,
    *,
    parameters: str = "params_m",
    earlier: pd.DataFrame | None = None,
) -> Calibration:
    """Compares every score with the solo runs.

    Args:
        solo: `candidate, family, seed, accuracy`: every head under every seed.
        scores: `candidate, seed` and a column a score, larger is better: every head in every
            search.
        primary: the score that counts; the p-values of the others are corrected for their number.
        parameters: the column that holds a head's size.
        earlier: like `scores`, one rung before.

    Raises:
        ValueError: fewer than four heads are in both tables, a head lacks a seed of either, or
            `primary` is no column of `scores`.
    """
    heads = sorted(set(solo["candidate"]) & set(scores["candidate"]))
    if len(heads) < 4:
        raise ValueError(f"four heads or more must be in both tables, but {heads} are")
    truth_HS = _grid(solo, "accuracy", heads)
    names = [name for name in scores.columns if name not in ("candidate", "seed")]
    if primary not in names:
        raise ValueError(f"the primary score {primary!r} is none of {names}")
    scores_HZ = {name: _grid(scores, name, heads) for name in names}
    family = solo.drop_duplicates("candidate").set_index("candidate")["family"]
    families = [str(family[head]) for head in heads]
    if earlier is not None and set(earlier["seed"]) != set(scores["seed"]):
        earlier = None  # not every search has a rung before its last
    size_H = scores_HZ[parameters].mean(axis=1) if parameters in scores_HZ else None
    agreements = {
        name: agreement(
            name,
            truth_HS,
            scores_HZ[name],
            None if earlier is None else _grid(earlier, name, heads),
            families,
            size_H,
            name == primary,
        )
        for name in names
    }
    others = [name for name in names if name != primary and not math.isnan(agreements[name].p)]
    adjusted: Any = (
        stats.false_discovery_control([agreements[name].p for name in others]) if others else []
    )
    corrected = dict(zip(others, map(float, adjusted), strict=True))
    found_reliability = reliability(truth_HS)
    return Calibration(
        tuple(
            replace(agreements[name], p=corrected.get(name, agreements[name].p)) for name in names
        ),
        len(heads),
        found_reliability,
        ceiling(found_reliability),
    )


def calibrate_runs(runs: Sequence[Run], primary: str, gain: str = "accuracy") -> Calibration:
    """Compares the scores of searches with the solo runs that `verify` left in them.

    Controls, and heads that one of the searches pruned before its end, are left out. So are scores
    that not every search measured. Every search counts as a seed of its own. The solo runs of all
    searches form one table.

    Args:
        runs: verified searches.
        primary: the score that counts.
        gain: what heads gain in: accuracy, or a dense task of `OTHER_DATA_RANKINGS`.

    Raises:
        UserError: too few heads were verified, or not all under the same seeds; or the primary
            score or the gain is unknown.
    """
    if gain not in ("accuracy", *OTHER_DATA_RANKINGS):
        raise unknown("--gain", gain, ("accuracy", *OTHER_DATA_RANKINGS))
    solo = pd.concat([run.solo for run in runs]).drop_duplicates(["candidate", "seed"])
    solo = solo[~solo["family"].isin([NO_HEAD, *CONTROL_FAMILIES])]
    columns = [f"base_{name}" for name in OTHER_DATA_RANKINGS.get(gain, ("knn", "linear"))]
    solo = solo.assign(accuracy=solo[columns].mean(axis=1, skipna=gain == "accuracy"))
    if solo["accuracy"].isna().any() and gain != "accuracy":
        raise UserError(
            f"--gain {gain} needs solo runs with such scores: search and verify with "
            "--dense-data or --tasks"
        )
    last, earlier = (
        pd.concat([scores_of_search(run, index, back) for index, run in enumerate(runs)])
        for back in (0, 1)
    )
    if primary not in SCORES:
        raise unknown("score", primary, SCORES)
    measured = (*FURTHER_SCORES, *OTHER_DATA_RANKINGS)
    gaps = [name for name in measured if last[name].isna().any() and name != primary]
    last, earlier = last.drop(columns=gaps), earlier.drop(columns=gaps)
    times_scored = last["candidate"].value_counts()
    kept = set(times_scored[times_scored == last["seed"].nunique()].index)
    try:
        return calibrate(
            solo[solo["candidate"].isin(kept)],
            last[last["candidate"].isin(kept)],
            primary,
            earlier=earlier[earlier["candidate"].isin(kept)] if len(earlier) else None,
        )
    except ValueError as error:
        remedy = "`headsearch verify RUN --top N` adds solo runs; search with --pruner none"
        raise UserError(f"{error}; {remedy}") from None


def ceiling(reliability: float) -> float:
    """(2/π) asin √R, the τ that a perfect score would reach, under normality."""
    return 2 / math.pi * math.asin(math.sqrt(reliability))


def reliability(truth_HS: Array) -> float:
    """1 − MS(error) / MS(heads) of the two-way table: the intraclass correlation ICC(3, S).

    Source: Shrout and Fleiss 1979, Psychological Bulletin 86. NaN with one seed.
    """
    heads, seeds = truth_HS.shape
    if seeds < 2:
        return math.nan
    means_H1 = truth_HS.mean(axis=1, keepdims=True)
    error_HS = truth_HS - means_H1 - truth_HS.mean(axis=0) + truth_HS.mean()
    ms_error = float((error_HS**2).sum()) / ((heads - 1) * (seeds - 1))
    ms_heads = seeds * float(means_H1.var(ddof=1))
    return max(0.0, 1 - ms_error / ms_heads) if ms_heads else 0.0


def _grid(table: pd.DataFrame, column: str, heads: list[str]) -> Array:
    """The column as (heads, seeds).

    Raises:
        ValueError: a head lacks a seed.
    """
    wide = table.pivot_table(index="candidate", columns="seed", values=column, dropna=False)
    grid: Array = wide.reindex(heads).to_numpy(dtype=float)
    if not np.isfinite(grid).all():
        gaps = list(_gaps(wide.reindex(heads)))
        raise ValueError(f"{column} is missing for {', '.join(gaps[:NAMED_GAPS])}")
    return grid


def _gaps(wide: pd.DataFrame) -> Iterator[str]:
    """The cells without a value, in words."""
    for head, row in wide.iterrows():
        for seed, value in row.items():
            if not math.isfinite(value):
                yield f"{head} at seed {seed}"
