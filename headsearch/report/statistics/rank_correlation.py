"""Kendall's and Spearman's rank correlation over candidates, intervals and permutation tests."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice
from itertools import permutations as all_orders
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from headsearch.report.statistics.intervals import Z_95, Interval
from headsearch.runs.run import Run
from headsearch.runs.tables import ranked

MIN_CORRELATED = 5
"""Fewest pairs: the variance of Kendall's τ divides by n − 4."""
PERMUTED = 64
"""Pairs up to which p is found by permutations: the work grows with their square."""
PRODUCTS = 2**18
"""How many products of signs are computed at a time: as many as fit into a cache."""


class Correlation(NamedTuple):
    """Rank correlation of two figures over candidates.

    Attributes:
        number: pairs without a missing figure.
        kendall: Kendall's τ-b.
        spearman: Spearman's ρ.
        p: two-sided p-value of τ-b, by permutations up to `PERMUTED` pairs, beyond that from the
            normal approximation.
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
    """Kendall's τ-b and Spearman's ρ of the pairs without a missing figure.

    The intervals are those of Bonett & Wright (2000, Psychometrika 65): Fisher's z with variance
    0.437/(n − 4) for τ and (1 + ρ²/2)/(n − 3) for ρ. A bootstrap over a dozen candidates draws many
    of them twice, and such ties shift τ-b; these intervals are deterministic and keep their
    coverage.

    Returns:
        None with fewer than 5 pairs, or if all figures of one side are equal.
    """
    pairs = np.stack([np.asarray(x, dtype=float), np.asarray(y, dtype=float)])
    pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
    number = pairs.shape[1]
    if number < MIN_CORRELATED or (np.ptp(pairs, axis=1) == 0).any():
        return None
    rho = float(stats.spearmanr(pairs[0], pairs[1]).statistic)
    return Correlation(
        number,
        tau_interval(pairs[0], pairs[1]),
        _fisher_interval(rho, (1 + rho**2 / 2) / (number - 3), 6 / (number**3 - number)),
        permutation_p(pairs[1], pairs[0], permutations=permutations, seed=seed)
        if number <= PERMUTED
        else float(stats.kendalltau(pairs[0], pairs[1]).pvalue),
    )


def tau_interval(x_N: npt.NDArray[np.float64], y_N: npt.NDArray[np.float64]) -> Interval:
    """Kendall's τ-b with the interval that `correlation` describes.

    Returns:
        Bounds of NaN with fewer than 5 pairs; NaN alone if all figures of one side are equal.
    """
    tau, number = tau_b(x_N, y_N), len(x_N)
    if number < MIN_CORRELATED or math.isnan(tau):
        return Interval(tau, math.nan, math.nan)
    # A perfect order would have an interval of width 0; the margin, half a discordant pair,
    # avoids that.
    return _fisher_interval(tau, 0.437 / (number - 4), 2 / (number * (number - 1)))


def _fisher_interval(value: float, variance: float, margin: float) -> Interval:
    """The interval by Fisher's z transformation.

    Args:
        value: the correlation.
        variance: of Fisher's z.
        margin: how far from ±1 the centre is kept, where z is infinite.
    """
    centre = math.atanh(min(max(value, margin - 1), 1 - margin))
    half = Z_95 * math.sqrt(variance)
    return Interval(
        value, min(math.tanh(centre - half), value), max(math.tanh(centre + half), value)
    )


def permutation_p(
    permuted_N: npt.NDArray[np.float64],
    fixed_N: npt.NDArray[np.float64],
    *,
    permutations: int = 9999,
    seed: int = 0,
    enumerate_few: bool = False,
) -> float:
    """Two-sided p-value of Kendall's τ-b: the share of orders with |τ-b| as large as observed.

    Args:
        permuted_N: one figure of each candidate; its order is permuted.
        fixed_N: the other figure, in the same order of candidates.
        permutations: orders that are drawn; the observed one counts as one more.
        seed: of the draws.
        enumerate_few: use all N! orders instead where these are at most `permutations`.

    Returns:
        The p-value; NaN if all figures of one side are equal.
    """
    if not np.ptp(permuted_N) or not np.ptp(fixed_N):
        return math.nan
    # Permuting does not change the number of ties, so |concordant − discordant| ranks as |τ-b|.
    permuted_NN = np.sign(permuted_N[:, None] - permuted_N[None, :])
    fixed_NN = np.sign(fixed_N[:, None] - fixed_N[None, :])
    observed = abs((permuted_NN * fixed_NN).sum())

    number = len(fixed_N)

    def as_large(orders: Iterable[Sequence[int] | npt.NDArray[np.int64]]) -> int:
        """How many of some orders are as large; sums of signs are exact, in any order."""
        found, left = 0, iter(orders)
        while some := list(islice(left, max(1, PRODUCTS // number**2))):
            orders_ON = np.array(some)
            signs_ONN = permuted_NN[orders_ON[:, :, None], orders_ON[:, None, :]]
            found += int((abs((signs_ONN * fixed_NN).sum(axis=(1, 2))) >= observed).sum())
        return found

    if enumerate_few and math.factorial(number) <= permutations:
        return as_large(all_orders(range(number))) / math.factorial(number)
    rng = np.random.default_rng(seed)
    hits = as_large(rng.permutation(number) for _ in range(permutations))
    return (1 + hits) / (1 + permutations)


def tau_b(x_N: npt.NDArray[np.float64], y_N: npt.NDArray[np.float64]) -> float:
    """Kendall's τ-b; NaN if all figures of one side are equal."""
    return float(stats.kendalltau(x_N, y_N).statistic)


class Trend(NamedTuple):
    """The rank correlation of two columns of rungs.csv over the heads, at one rung.

    Attributes:
        rung: the last rung that all heads reached.
        x, y: the two figures of each head at that rung.
        correlation: of the two.
    """

    rung: int
    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    correlation: Correlation


def trend(run: Run, x: str, y: str) -> Trend | None:
    """The trend of `y` over `x` at the last rung before anything was pruned.

    The heads that survive pruning were selected by a score that depends on both figures. This alone
    makes the two anticorrelated among the survivors (Berkson's paradox). Figures of different rungs
    differ by the training in between. Collapsed and failed heads are left out, and so is rung 0,
    the untrained network.

    Returns:
        None without scored rungs, or where `correlation` returns None.
    """
    healthy = {row.candidate for row in ranked(run.ranking) if row.healthy}
    rows = run.rungs[run.rungs["candidate"].isin(healthy) & (run.rungs["rung"] > 0)]
    if rows.empty:
        return None
    rungs_N = rows["rung"].to_numpy(dtype=int)
    heads_at = dict(zip(*np.unique(rungs_N, return_counts=True), strict=True))
    rung = int(max(index for index, heads in heads_at.items() if heads == max(heads_at.values())))
    at_rung = rows[rows["rung"] == rung].sort_values("candidate")
    x_N = at_rung[x].to_numpy(dtype=float)
    y_N = at_rung[y].to_numpy(dtype=float)
    correlated = correlation(x_N, y_N)
    return correlated and Trend(rung, x_N, y_N, correlated)
