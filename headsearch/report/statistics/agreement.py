"""How well one score of a search ranks heads by their gain: Kendall's τ and what goes with it.

Shapes: H heads, S seeds of solo runs, Z seeds of searches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats

from headsearch.report.statistics.intervals import Interval
from headsearch.report.statistics.rank_correlation import permutation_p, tau_b

Array: TypeAlias = npt.NDArray[np.float64]

RESAMPLES = 2000
"""Bootstrap resamples behind the intervals of τ and ρ."""
TOP = 3
"""`best_in_top3` asks for the best head among so many first ones."""


@dataclass(frozen=True)
class Agreement:
    """How one score agrees with the gains that solo runs measured.

    Attributes:
        score: its name.
        primary: whether it was named beforehand as the score that counts.
        tau: Kendall's τ-b with the gains; the interval is a bootstrap over heads and seeds.
        tau_of_one_search: the mean τ of single searches: what a search with one seed is worth.
        rho: Spearman's ρ with the gains, with its interval.
        p: two-sided p-value of no association, by permutation; adjusted over all scores but the
            primary one (Benjamini and Hochberg 1995, JRSS B 57).
        partial: partial τ that controls for the number of parameters (Kendall 1942, Biometrika 32);
            NaN for the parameters themselves.
        without_family: the smallest and largest τ when the heads of one family are left out.
        regret: the best gain minus that of the head that the score ranks first, as a fraction.
        regret_sd: the regret divided by the standard deviation of the gains over heads.
        best_in_top3: how often, over resampled seeds, the best head is among the score's first
            three.
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


def agreement(
    name: str,
    truth_HS: Array,
    score_HZ: Array,
    earlier_HZ: Array | None,
    families: Sequence[str],
    size_H: Array | None,
    primary: bool,
) -> Agreement:
    """Compares one score with the gains of the same heads.

    Args:
        name: of the score.
        truth_HS: accuracy of each head under each seed of its solo runs.
        score_HZ: the score of each head in each search.
        earlier_HZ: the same one rung before; None if unknown.
        families: of the heads.
        size_H: the number of parameters of each head; None if unknown.
        primary: whether this is the score that counts.
    """
    truth_H, score_H = truth_HS.mean(axis=1), score_HZ.mean(axis=1)
    tau, rho = tau_b(score_H, truth_H), float(stats.spearmanr(score_H, truth_H).statistic)
    taus, rhos, hits = _resampled(truth_HS, score_HZ)
    kept = [np.array([f != left_out for f in families]) for left_out in sorted(set(families))]
    without = [tau_b(score_H[keep], truth_H[keep]) for keep in kept if keep.sum() > 1]
    # Accuracies instead of gains: the accuracy without a head cancels in the difference.
    regret = float(truth_H.max() - truth_H[score_H.argmax()])
    pairs = combinations(range(score_HZ.shape[1]), 2)
    between = [tau_b(score_HZ[:, a], score_HZ[:, b]) for a, b in pairs]
    # A score that is the number of parameters has no τ beyond them.
    no_partial = size_H is None or np.array_equal(size_H, score_H)
    return Agreement(
        name,
        primary,
        Interval(tau, *_middle(taus)),
        float(np.mean([tau_b(alone_H, truth_H) for alone_H in score_HZ.T])),
        Interval(rho, *_middle(rhos)),
        permutation_p(score_H, truth_H, enumerate_few=True),
        math.nan if no_partial or size_H is None else _partial(score_H, truth_H, size_H),
        (min(without), max(without)),
        regret,
        regret / float(truth_H.std(ddof=1)),
        hits,
        float(np.mean(between)) if between else math.nan,
        math.nan
        if earlier_HZ is None
        else float(np.mean(list(map(tau_b, score_HZ.T, earlier_HZ.T)))),
    )


def _resampled(truth_HS: Array, score_HZ: Array) -> tuple[Array, Array, float]:
    """Bootstrap of τ and ρ over heads and seeds; how often the best head is in the top 3.

    The last resamples seeds only. A head drawn twice is not compared with itself: counted as a tie,
    such pairs would pull τ-b towards 0.
    """
    rng = np.random.default_rng(0)
    heads, seeds, searches = len(truth_HS), truth_HS.shape[1], score_HZ.shape[1]
    taus, hits = np.empty(RESAMPLES), 0
    scores_RH, truths_RH = np.empty((RESAMPLES, heads)), np.empty((RESAMPLES, heads))
    for index in range(RESAMPLES):
        # Whole columns, because the accuracies of one seed are correlated.
        truth_H = truth_HS[:, rng.integers(seeds, size=seeds)].mean(axis=1)
        score_H = score_HZ[:, rng.integers(searches, size=searches)].mean(axis=1)
        hits += bool(truth_H.argmax() in np.argsort(-score_H, kind="stable")[:TOP])
        drawn = rng.integers(heads, size=heads)
        taus[index] = _tau_of_different(drawn, score_H, truth_H)
        scores_RH[index], truths_RH[index] = score_H[drawn], truth_H[drawn]
    return taus, _spearman(scores_RH, truths_RH), hits / RESAMPLES


def _spearman(x_RH: Array, y_RH: Array) -> Array:
    """Spearman's ρ of each row: (R,); NaN where all figures of one side are equal.

    Ranking all resamples at once is thirty times as fast as calling scipy's function for each.
    """
    ranks = (stats.rankdata(each, axis=1) for each in (x_RH, y_RH))
    x_RH, y_RH = (each - each.mean(axis=1, keepdims=True) for each in ranks)
    scale_R = np.sqrt((x_RH**2).sum(axis=1) * (y_RH**2).sum(axis=1))
    rho_R = np.full(len(x_RH), math.nan)
    np.divide((x_RH * y_RH).sum(axis=1), scale_R, out=rho_R, where=scale_R > 0)
    return rho_R


def _tau_of_different(drawn_H: npt.NDArray[np.int64], x_H: Array, y_H: Array) -> float:
    """τ-b over the pairs of a resample that are two different heads."""
    first, second = np.triu_indices(len(drawn_H), 1)
    a, b = drawn_H[first], drawn_H[second]
    a, b = a[a != b], b[a != b]
    x, y = np.sign(x_H[a] - x_H[b]), np.sign(y_H[a] - y_H[b])
    untied = math.sqrt(float(np.abs(x).sum()) * float(np.abs(y).sum()))
    return float((x * y).sum()) / untied if untied else math.nan


def _partial(x_H: Array, y_H: Array, z_H: Array) -> float:
    """Kendall's partial τ of x and y given z; NaN if z determines one of them."""
    xy, xz, yz = tau_b(x_H, y_H), tau_b(x_H, z_H), tau_b(y_H, z_H)
    scale = math.sqrt((1 - xz**2) * (1 - yz**2))
    return (xy - xz * yz) / scale if scale else math.nan


def _middle(values: Array) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles, leaving out NaN."""
    low, high = np.nanquantile(values, [0.025, 0.975]) if np.isfinite(values).any() else (
        math.nan, math.nan)  # fmt: skip
    return float(low), float(high)
