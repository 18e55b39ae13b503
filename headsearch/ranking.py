"""The order of the candidates, and how far their figures can be told apart.

All accuracies are fractions (0..1) on the reporting split. Every interval is a 95 % interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from headsearch.runs.run import Run
from headsearch.runs.tables import (
    STATE_CLASS,
    Ranked,
    ranked,
)

Z_95 = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution
MIN_CORRELATED = 5  # Kendall's interval divides by n − 4
PERMUTED = 64  # pairs; the work grows with their square


class Interval(NamedTuple):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


def accuracy_interval(accuracy: float, images: int) -> Interval:
    """An accuracy measured on `images` images with its binomial interval (Wilson 1927, JASA 22).

    Raises nothing; NaN stays NaN. Unlike the normal interval it stays within 0..1.
    """
    spread = Z_95**2 / images
    centre = (accuracy + spread / 2) / (1 + spread)
    half = math.sqrt(accuracy * (1 - accuracy) * spread + spread**2 / 4) / (1 + spread)
    return Interval(accuracy, centre - half, centre + half)


def told_apart(first: Interval, second: Interval) -> bool:
    """Whether the 95 % interval of the two figures' difference excludes 0.

    The interval of the difference comes from the two intervals by Newcombe's square-and-add (1998,
    Statistics in Medicine 17, method 10), which takes them as independent. Two heads scored on
    the same images err together, so this says "cannot be told apart" rather too often.
    """
    upper, lower = (first, second) if first.value >= second.value else (second, first)
    reach = math.hypot(upper.value - upper.low, lower.high - lower.value)
    return upper.value - lower.value > reach


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


def rank_by(run: Run) -> str:
    """What the score measures: discrepancy, accuracy or balanced. Without labels: discrepancy."""
    if run.facts.get("labelled") is False:
        return "discrepancy"
    chosen = str(run.config.get("rank_by", "auto"))
    return "accuracy" if chosen == "auto" else chosen


def reporting_images(run: Run) -> int | None:
    """Images behind every reported accuracy, or None where the run has not said."""
    number = run.facts.get("eval", {}).get("report")
    return int(number) if number else None


def last_rung(run: Run) -> int | None:
    """The last rung that was scored, or None before rung 0."""
    scored = run.ranking.loc[run.ranking["score"].notna(), "rungs"]  # where rungs.csv is lost
    rungs = [*run.rungs["rung"], *scored]
    return int(max(rungs)) if rungs else None


def distinct(first: Ranked, second: Ranked, run: Run) -> bool:
    """Whether `first` beats `second` in what the ranking measures, by more than their intervals.

    Of two measures (balanced) at least one must be better and none worse: a head that trades
    one for the other is not shown to be the better one.
    """
    wanted, images = rank_by(run), reporting_images(run)
    verdicts = []
    if wanted in ("discrepancy", "balanced"):
        verdicts.append(_verdict(_discrepancy(first), _discrepancy(second)))
    if wanted in ("accuracy", "balanced"):
        verdicts.append(
            0
            if images is None
            else _verdict(
                accuracy_interval(first.accuracy, images),
                accuracy_interval(second.accuracy, images),
            )
        )
    return max(verdicts) == 1 and min(verdicts) >= 0


def _discrepancy(row: Ranked) -> Interval:
    return Interval(row.discrepancy, row.discrepancy_low, row.discrepancy_high)


def _verdict(first: Interval, second: Interval) -> int:
    """1 where `first` is larger, −1 where it is smaller, 0 where they cannot be told apart."""
    if not told_apart(first, second):
        return 0
    return 1 if first.value > second.value else -1


def contenders(rows: Sequence[Ranked]) -> list[Ranked]:
    """The healthy heads that were scored as late as the leader: those it can be compared with."""
    healthy = [row for row in rows if row.healthy]
    if not healthy:
        return []
    leader = healthy[0]
    return [
        row
        for row in healthy
        if row.rungs == leader.rungs and STATE_CLASS[row.state] == STATE_CLASS[leader.state]
    ]


def base_has_learnt(run: Run) -> bool | None:
    """Whether the base's accuracy is above its untrained self's beyond error; None if unknown."""
    baselines, images = run.facts.get("baselines", {}), reporting_images(run)
    for probe in ("knn", "linear"):
        trained, untrained = baselines.get(f"base_{probe}"), baselines.get(f"untrained_{probe}")
        if trained is not None and untrained is not None and images is not None:
            return (
                _verdict(accuracy_interval(trained, images), accuracy_interval(untrained, images))
                == 1
            )
    return None
