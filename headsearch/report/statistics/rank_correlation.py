"""Rank correlation over candidates (Kendall, Spearman) with intervals and permutation tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from headsearch.report.statistics.intervals import Z_95, Interval
from headsearch.runs.run import Run
from headsearch.runs.tables import (
    ranked,
)

MIN_CORRELATED = 5  # Kendall's interval divides by n − 4


PERMUTED = 64  # pairs; the work grows with their square


class Correlation(NamedTuple):
    """Rank correlation of two figures over candidates.

    `p` is the two-sided p-value of Kendall's tau-b: by permutations, of more than `PERMUTED` pairs
    by the normal distribution that it then has.
    """

    number: int
    kendall: Interval
    spearman: Interval
    p: float


def correlation(
    x: Sequence[float] | npt.NDArray[np.float64],
    y: Sequence[float] | npt.NDArray[np.float64],
    *,
    permutations: int = 9999,
    seed: int = 0,
) -> Correlation | None:
    """Kendall's tau-b and Spearman's rho of the pairs without a missing figure.

    The intervals are those of Bonett & Wright (2000, Psychometrika 65): Fisher's z with variance
    0.437/(n − 4) for tau and (1 + rho²/2)/(n − 3) for rho. A bootstrap over a dozen candidates
    draws many of them twice, and such ties pull tau-b about; these are deterministic and cover.

    Returns:
        None with fewer than 5 pairs, or where all of one side's figures are equal.
    """
    pairs = np.stack([np.asarray(x, dtype=float), np.asarray(y, dtype=float)])
    pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
    number = pairs.shape[1]
    if number < MIN_CORRELATED or (np.ptp(pairs, axis=1) == 0).any():
        return None
    kendall = stats.kendalltau(pairs[0], pairs[1])
    tau = float(kendall.statistic)
    rho = float(stats.spearmanr(pairs[0], pairs[1]).statistic)
    return Correlation(
        number,
        # A perfect order would have an interval without width: half a discordant pair is granted.
        _fisher_interval(tau, 0.437 / (number - 4), 2 / (number * (number - 1))),
        _fisher_interval(rho, (1 + rho**2 / 2) / (number - 3), 6 / (number**3 - number)),
        _permutation_p(pairs[0], pairs[1], permutations, seed)
        if number <= PERMUTED
        else float(kendall.pvalue),
    )


def _fisher_interval(value: float, variance: float, margin: float) -> Interval:
    centre = math.atanh(min(max(value, margin - 1), 1 - margin))
    half = Z_95 * math.sqrt(variance)
    return Interval(
        value, min(math.tanh(centre - half), value), max(math.tanh(centre + half), value)
    )


def _permutation_p(
    x_N: npt.NDArray[np.float64], y_N: npt.NDArray[np.float64], permutations: int, seed: int
) -> float:
    """Share of orders of y, the observed one among them, with |tau-b| as large as observed.

    Ties keep their number under permutation, so |concordant − discordant| orders as |tau-b| does.
    """
    signs_x_NN = np.sign(x_N[:, None] - x_N[None, :])
    signs_y_NN = np.sign(y_N[:, None] - y_N[None, :])
    observed = abs((signs_x_NN * signs_y_NN).sum())
    rng = np.random.default_rng(seed)
    as_large = 1
    for _ in range(permutations):
        order_N = rng.permutation(len(y_N))
        as_large += abs((signs_x_NN * signs_y_NN[np.ix_(order_N, order_N)]).sum()) >= observed
    return float(as_large / (permutations + 1))


class Trend(NamedTuple):
    """How two columns of rungs.csv go together over the heads, at one rung that all of them saw."""

    rung: int
    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    correlation: Correlation


def trend(run: Run, x: str, y: str) -> Trend | None:
    """The trend of `y` over `x` at the last rung before anything was pruned.

    Heads that survive pruning were selected by a score that both figures enter, which alone
    makes the two go against each other among the survivors (Berkson's paradox); and figures of
    different rungs differ by the training in between. Collapsed and failed heads are left out,
    and so is rung 0, the untrained network. None where `correlation` is.
    """
    healthy = {row.candidate for row in ranked(run.ranking) if row.healthy}
    rows = run.rungs[run.rungs["candidate"].isin(healthy) & (run.rungs["rung"] > 0)]
    if rows.empty:
        return None
    rungs_N = rows["rung"].to_numpy(dtype=int)
    heads = dict(zip(*np.unique(rungs_N, return_counts=True), strict=True))
    rung = int(max(index for index, number in heads.items() if number == max(heads.values())))
    at_rung = rows[rows["rung"] == rung].sort_values("candidate")
    x_N = at_rung[x].to_numpy(dtype=float)
    y_N = at_rung[y].to_numpy(dtype=float)
    found = correlation(x_N, y_N)
    return found and Trend(rung, x_N, y_N, found)
