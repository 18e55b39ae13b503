"""How well each score of a search ranks heads by what they gain the base when trained alone.

Two tables are compared: solo runs, a row a head and seed, and scores of searches, a row a head and
seed of the search. A score's value for a head is its mean over searches; a head's true gain is its
mean accuracy over seeds. Ranks are compared by Kendall's τ-b.

Shapes: H heads, S seeds of solo runs, Z seeds of searches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from headsearch.errors import UserError, unknown
from headsearch.report.statistics.intervals import Interval
from headsearch.report.statistics.score_columns import (
    SCORES,
    of_search,
)
from headsearch.runs.run import Run
from headsearch.runs.tables import CONTROL_FAMILIES, NO_HEAD

Array: TypeAlias = npt.NDArray[np.float64]

RESAMPLES = 2000
TOP = 3


@dataclass(frozen=True)
class Agreement:
    """How one score agrees with the solo runs.

    Attributes:
        score: its name.
        primary: whether it was named beforehand as the one that counts.
        tau: Kendall's τ-b with the gains, its interval over heads and seeds.
        tau_of_one_search: mean τ of single searches, which is what one seed of a search is worth.
        rho: Spearman's ρ, likewise.
        p: of no association, by permutation, two-sided; adjusted over all scores but the primary
            one (Benjamini and Hochberg 1995, JRSS B 57).
        partial: τ with the parameters' part taken out (Kendall 1942, Biometrika 32); NaN for the
            parameters themselves.
        without_family: the smallest and largest τ when the heads of one family are left out.
        regret: what the first head by the score gains less than the best, as a fraction.
        regret_sd: the same over the standard deviation of gains over heads.
        best_in_top3: how often, over seeds drawn anew, the best head is among the first three.
        seed_to_seed: mean τ between two searches of different seeds; NaN with one.
        rung_to_rung: mean τ between a search's last rung and the one before; NaN if unknown.
    """

    score: str
    primary: bool
    tau: Interval
    tau_of_one_search: float
    rho: Interval
    p: float
    partial: float
    without_family: tuple[float, float]
    regret: float
    regret_sd: float
    best_in_top3: float
    seed_to_seed: float
    rung_to_rung: float


@dataclass(frozen=True)
class Calibration:
    """All scores against the same solo runs.

    Attributes:
        agreements: in the order of the scores.
        heads: how many were compared.
        reliability: R, the share of the variance of heads' mean gains that another set of seeds
            would find again; NaN with one seed.
        ceiling: (2/π) asin √R, the τ of a perfect score with gains this noisy, under normality.
    """

    agreements: tuple[Agreement, ...]
    heads: int
    reliability: float
    ceiling: float

    def table(self) -> pd.DataFrame:
        """calibration.csv: a row a score."""
        return pd.DataFrame(
            {
                "score": found.score,
                "primary": found.primary,
                "tau": found.tau.value,
                "tau_low": found.tau.low,
                "tau_high": found.tau.high,
                "tau_of_one_search": found.tau_of_one_search,
                "ceiling": self.ceiling,
                "rho": found.rho.value,
                "rho_low": found.rho.low,
                "rho_high": found.rho.high,
                "p": found.p,
                "partial_tau": found.partial,
                "tau_without_family_low": found.without_family[0],
                "tau_without_family_high": found.without_family[1],
                "regret": found.regret,
                "regret_sd": found.regret_sd,
                "best_in_top3": found.best_in_top3,
                "seed_to_seed_tau": found.seed_to_seed,
                "rung_to_rung_tau": found.rung_to_rung,
                "heads": self.heads,
            }
            for found in self.agreements
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
        primary: the score that counts; the others' p-values are corrected for their number.
        parameters: the column that stands for a head's size.
        earlier: like `scores`, a rung before.

    Raises:
        ValueError: fewer than four heads are in both tables, or a head lacks a seed of either.
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
        earlier = None  # a search without an earlier rung has nothing to compare with
    size_H = scores_HZ[parameters].mean(axis=1) if parameters in scores_HZ else None
    found = {
        name: _agreement(
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
    others = [name for name in names if name != primary and not math.isnan(found[name].p)]
    adjusted: Any = (
        stats.false_discovery_control([found[name].p for name in others]) if others else []
    )
    corrected = dict(zip(others, map(float, adjusted), strict=True))
    reliability = _reliability(truth_HS)
    return Calibration(
        tuple(replace(found[name], p=corrected.get(name, found[name].p)) for name in names),
        len(heads),
        reliability,
        2 / math.pi * math.asin(math.sqrt(reliability)),
    )


def calibrate_runs(runs: Sequence[Run], primary: str) -> Calibration:
    """Compares the scores of searches with the solo runs that `verify` left in them.

    Controls, and heads that one of the searches pruned before its end, are left out. Every search
    counts as a seed of its own, and the solo runs of all of them as one table.

    Raises:
        UserError: too few heads were verified, or not all under the same seeds.
    """
    solo = pd.concat([run.solo for run in runs]).drop_duplicates(["candidate", "seed"])
    solo = solo[~solo["family"].isin([NO_HEAD, *CONTROL_FAMILIES])]
    solo = solo.assign(accuracy=solo[["base_knn", "base_linear"]].mean(axis=1))
    last, earlier = (
        pd.concat([of_search(run, index, back) for index, run in enumerate(runs)])
        for back in (0, 1)
    )
    if primary not in SCORES:
        raise unknown("score", primary, SCORES)
    everywhere = last["candidate"].value_counts()
    kept = set(everywhere[everywhere == last["seed"].nunique()].index)
    try:
        return calibrate(
            solo[solo["candidate"].isin(kept)],
            last[last["candidate"].isin(kept)],
            primary,
            earlier=earlier[earlier["candidate"].isin(kept)] if len(earlier) else None,
        )
    except ValueError as error:
        mend = "`headsearch verify RUN --top N` adds solo runs; search with --pruner none"
        raise UserError(f"{error}; {mend}") from None


def tau(x_H: Array, y_H: Array) -> float:
    """Kendall's τ-b; NaN where one side has no order."""
    return float(stats.kendalltau(x_H, y_H).statistic)


def _agreement(
    name: str,
    truth_HS: Array,
    score_HZ: Array,
    earlier_HZ: Array | None,
    families: Sequence[str],
    size_H: Array | None,
    primary: bool,
) -> Agreement:
    truth_H, score_H = truth_HS.mean(axis=1), score_HZ.mean(axis=1)
    value, rho = tau(score_H, truth_H), float(stats.spearmanr(score_H, truth_H).statistic)
    taus, rhos, hits = _resampled(truth_HS, score_HZ)
    kept = [np.array([f != left_out for f in families]) for left_out in sorted(set(families))]
    without = [tau(score_H[keep], truth_H[keep]) for keep in kept if keep.sum() > 1]
    regret = float(truth_H.max() - truth_H[score_H.argmax()])
    pairs = combinations(range(score_HZ.shape[1]), 2)
    between = [tau(score_HZ[:, a], score_HZ[:, b]) for a, b in pairs]
    same = size_H is None or np.array_equal(size_H, score_H)
    return Agreement(
        name,
        primary,
        Interval(value, *_middle(taus)),
        float(np.mean([tau(alone_H, truth_H) for alone_H in score_HZ.T])),
        Interval(rho, *_middle(rhos)),
        _permutation_p(score_H, truth_H),
        math.nan if same or size_H is None else _partial(score_H, truth_H, size_H),
        (min(without), max(without)),
        regret,
        regret / float(truth_H.std(ddof=1)),
        hits,
        float(np.mean(between)) if between else math.nan,
        math.nan
        if earlier_HZ is None
        else float(np.mean(list(map(tau, score_HZ.T, earlier_HZ.T)))),
    )


def _resampled(truth_HS: Array, score_HZ: Array) -> tuple[Array, Array, float]:
    """τ and ρ over heads and seeds drawn anew; how often the best is in the top 3, over seeds.

    A head drawn twice is no pair with itself: counted as one, such ties would pull τ-b to 0.
    """
    rng = np.random.default_rng(0)
    heads, seeds, searches = len(truth_HS), truth_HS.shape[1], score_HZ.shape[1]
    taus, rhos, hits = np.empty(RESAMPLES), np.empty(RESAMPLES), 0
    for index in range(RESAMPLES):
        truth_H = truth_HS[:, rng.integers(seeds, size=seeds)].mean(axis=1)
        score_H = score_HZ[:, rng.integers(searches, size=searches)].mean(axis=1)
        hits += bool(truth_H.argmax() in np.argsort(-score_H, kind="stable")[:TOP])
        drawn = rng.integers(heads, size=heads)
        taus[index] = _tau_of_different(drawn, score_H, truth_H)
        rhos[index] = (
            stats.spearmanr(score_H[drawn], truth_H[drawn]).statistic
            if np.ptp(score_H[drawn]) and np.ptp(truth_H[drawn])
            else math.nan
        )
    return taus, rhos, hits / RESAMPLES


def _tau_of_different(drawn_H: npt.NDArray[np.int64], x_H: Array, y_H: Array) -> float:
    """τ-b over the pairs of a resample that are two different heads."""
    first, second = np.triu_indices(len(drawn_H), 1)
    a, b = drawn_H[first], drawn_H[second]
    a, b = a[a != b], b[a != b]
    x, y = np.sign(x_H[a] - x_H[b]), np.sign(y_H[a] - y_H[b])
    untied = math.sqrt(float(np.abs(x).sum()) * float(np.abs(y).sum()))
    return float((x * y).sum()) / untied if untied else math.nan


def _permutation_p(x_H: Array, y_H: Array) -> float:
    """Of |τ-b| as large, over all orders of the heads, or 9,999 drawn ones where those are more."""
    if not np.ptp(x_H) or not np.ptp(y_H):
        return math.nan
    signs_HH = np.sign(y_H[:, None] - y_H[None, :])

    def concordance(order_H: Array) -> float:
        return abs(float((np.sign(order_H[:, None] - order_H[None, :]) * signs_HH).sum()))

    found = stats.permutation_test(
        (x_H,), concordance, permutation_type="pairings", alternative="greater",
        n_resamples=9999, rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(found.pvalue)


def _partial(x_H: Array, y_H: Array, z_H: Array) -> float:
    xy, xz, yz = tau(x_H, y_H), tau(x_H, z_H), tau(y_H, z_H)
    left = math.sqrt((1 - xz**2) * (1 - yz**2))
    return (xy - xz * yz) / left if left else math.nan


def _reliability(truth_HS: Array) -> float:
    """1 − MS(error) / MS(heads) of the two-way table: the intraclass correlation ICC(3, S).

    Source: Shrout and Fleiss 1979, Psychological Bulletin 86.
    """
    heads, seeds = truth_HS.shape
    if seeds < 2:
        return math.nan
    means_H1 = truth_HS.mean(axis=1, keepdims=True)
    error_HS = truth_HS - means_H1 - truth_HS.mean(axis=0) + truth_HS.mean()
    of_error = float((error_HS**2).sum()) / ((heads - 1) * (seeds - 1))
    of_heads = seeds * float(means_H1.var(ddof=1))
    return max(0.0, 1 - of_error / of_heads) if of_heads else 0.0


def _middle(values: Array) -> tuple[float, float]:
    low, high = np.nanquantile(values, [0.025, 0.975]) if np.isfinite(values).any() else (
        math.nan, math.nan)  # fmt: skip
    return float(low), float(high)


def _grid(table: pd.DataFrame, column: str, heads: list[str]) -> Array:
    """The column as (heads, seeds)."""
    wide = table.pivot_table(index="candidate", columns="seed", values=column, dropna=False)
    grid: Array = wide.reindex(heads).to_numpy(dtype=float)
    if not np.isfinite(grid).all():
        gaps = list(_gaps(wide.reindex(heads)))
        raise ValueError(f"{column} is missing for {', '.join(gaps[:TOP])}")
    return grid


def _gaps(wide: pd.DataFrame) -> Iterator[str]:
    for head, row in wide.iterrows():
        for seed, value in row.items():
            if not math.isfinite(value):
                yield f"{head} at seed {seed}"
