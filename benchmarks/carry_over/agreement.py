"""How well scores rank the gains: τ by setting and over settings, its interval, regret.

Shapes: H heads, Z seeds of searches, R resamples, T settings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
from settings import SEEDS
from tables import Array, Truth

from headsearch.report.statistics.calibration import ceiling, reliability
from headsearch.report.statistics.rank_correlation import tau_b

PRIMARY = "head_accuracy"
"""The score whose mean τ is the primary result."""
RESAMPLES = 10_000
INFORMATIVE = 0.5
"""A setting whose gains are less reliable is uninformative."""
TOP = 3
RANDOM_ORDERS = 1000


def tau_of(truth: Truth, score_HZ: Array) -> float:
    """The mean τ of searches with one seed; 0 for a score that is the same for all heads."""
    taus = [tau_b(score_H, truth.gain_H) for score_H in score_HZ.T]
    return float(np.mean([0.0 if math.isnan(tau) else tau for tau in taus]))


def per_setting(
    truths: Mapping[str, Truth], scores: Mapping[str, Array]
) -> Iterable[dict[str, object]]:
    """Rows of tau.csv: τ in each setting, with an interval over heads."""
    for setting, truth in truths.items():
        found = reliability(truth.gain_HS)
        low, high = middle(resampled({setting: truth}, scores))
        yield {
            "setting": setting,
            "tau": tau_of(truth, scores[setting]),
            "low": low,
            "high": high,
            "ceiling": ceiling(found),
            "reliability": found,
        }


def interval_of_mean(truths: Mapping[str, Truth], scores: Mapping[str, Array]) -> dict[str, float]:
    """The mean τ over settings and its interval, by the two-way bootstrap."""
    low, high = middle(resampled(truths, scores))
    mean = float(np.mean([tau_of(truth, scores[name]) for name, truth in truths.items()]))
    return {"tau": mean, "low": low, "high": high}


def over_settings(truths: Mapping[str, Truth], scores: Mapping[str, Array]) -> dict[str, float]:
    """A row of summary.csv."""
    informative = {
        name: truth for name, truth in truths.items() if reliability(truth.gain_HS) >= INFORMATIVE
    }
    pairs = [
        (truth.gain_H, score_H) for name, truth in truths.items() for score_H in scores[name].T
    ]
    taus = {name: tau_of(truth, scores[name]) for name, truth in truths.items()}
    ceilings = {name: ceiling(reliability(truth.gain_HS)) for name, truth in truths.items()}
    return {
        **interval_of_mean(truths, scores),
        **{
            f"{key}_informative": value
            for key, value in (interval_of_mean(informative, scores) if informative else {}).items()
        },
        "tau_over_ceiling": float(np.mean([taus[name] / ceilings[name] for name in informative])),
        "regret_1": float(np.mean([regret(*pair, first=1) for pair in pairs])),
        "regret_3": float(np.mean([regret(*pair, first=TOP) for pair in pairs])),
        "top_3": float(np.mean([regret(*pair, first=TOP) == 0 for pair in pairs])),
        "sign": float(np.mean([np.mean((score > 0) == (gain > 0)) for gain, score in pairs])),
    }


def random_order(truths: Mapping[str, Truth]) -> dict[str, float]:
    """A row of summary.csv for random orders of the heads.

    The interval is that of the mean τ over settings of one random order a search seed, not of its
    expectation, which is 0.
    """
    rng = np.random.default_rng(0)
    drawn = {
        name: rng.normal(size=(len(truth.heads), len(SEEDS) * RANDOM_ORDERS))
        for name, truth in truths.items()
    }
    means = [
        np.mean([
            tau_of(truth, drawn[name][:, len(SEEDS) * i : len(SEEDS) * (i + 1)])
            for name, truth in truths.items()
        ])
        for i in range(RANDOM_ORDERS)
    ]  # fmt: skip
    pairs = [(truth.gain_H, order) for name, truth in truths.items() for order in drawn[name].T]
    low, high = middle(np.array(means))
    return {
        "tau": float(np.mean(means)),
        "low": low,
        "high": high,
        "regret_1": float(np.mean([regret(*pair, first=1) for pair in pairs])),
        "regret_3": float(np.mean([regret(*pair, first=TOP) for pair in pairs])),
        "top_3": float(np.mean([regret(*pair, first=TOP) == 0 for pair in pairs])),
    }


def regret(gain_H: Array, score_H: Array, first: int) -> float:
    """The best gain minus the best of the heads that the score ranks first, in points."""
    ranked = np.argsort(-score_H, kind="stable")[:first]
    return 100 * float(gain_H.max() - gain_H[ranked].max())


def resampled(truths: Mapping[str, Truth], scores: Mapping[str, Array]) -> Array:
    """The mean τ of each resample of settings and heads: (R,).

    A head that is drawn c times counts c times, but is not compared with itself; the same heads are
    drawn in all settings.
    """
    rng = np.random.default_rng(0)
    settings = list(truths)
    heads = len(next(iter(truths.values())).heads)
    counts_RH = rng.multinomial(heads, np.full(heads, 1 / heads), size=RESAMPLES).astype(float)
    taus_RT = np.stack(
        [_weighted_tau(truths[name].gain_H, scores[name], counts_RH) for name in settings], axis=1
    )
    drawn_RT = rng.integers(len(settings), size=(RESAMPLES, len(settings)))
    return np.nanmean(np.take_along_axis(taus_RT, drawn_RT, axis=1), axis=1)


def _weighted_tau(gain_H: Array, score_HZ: Array, counts_RH: Array) -> Array:
    """τ-b over pairs of different heads, for each resample: (R,), the mean over searches."""
    y_HH = np.sign(gain_H[:, None] - gain_H[None, :])

    def total(pairs_HH: Array) -> Array:
        return np.einsum("ri,ij,rj->r", counts_RH, pairs_HH, counts_RH, optimize=True)

    taus = []
    for score_H in score_HZ.T:
        x_HH = np.sign(score_H[:, None] - score_H[None, :])
        untied = np.sqrt(total(np.abs(x_HH)) * total(np.abs(y_HH)))
        with np.errstate(invalid="ignore"):
            taus.append(np.where(untied > 0, total(x_HH * y_HH) / untied, 0.0))
    return np.mean(taus, axis=0)


def middle(values: Array) -> tuple[float, float]:
    """The quantiles that hold 95 % of resampled values."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
