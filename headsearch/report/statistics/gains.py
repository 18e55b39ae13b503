"""Gains: how much each head improves the base in solo runs, with simultaneous intervals.

Runs of one seed start from the same weights and see the same images in the same order, so their
accuracies are correlated. The model therefore has an effect for each seed: accuracy(head h, seed s)
= μ_h + σ_s + ε, fitted by least squares. The variance of ε is the same for all heads, because the
few runs of one head say little about a variance of its own. A gain is the difference of a head's
μ_h from a control's. The intervals hold for all heads at once (Dunnett 1955, JASA 50), so that the
best of many heads is not called better by chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from headsearch.runs.run import Run
from headsearch.runs.tables import CONTROL_FAMILIES, NO_HEAD, RANKING_COLUMNS, write_table

DRAWS = 200_000
"""Draws behind a critical value, which is accurate to about 0.3 % and the same every time."""


@dataclass(frozen=True)
class Gain:
    """What a head adds to the accuracy of the base, compared with a control.

    Attributes:
        value: the difference, as a fraction.
        error: its standard error over seeds; NaN with one seed.
        low, high: bounds of its 95 % interval, simultaneous over all heads; NaN with one seed.
        p: two-sided p-value of no difference, adjusted for the number of heads; NaN with one seed.
        runs: the number of solo runs of this head.
    """

    value: float
    error: float
    low: float
    high: float
    p: float
    runs: int

    @property
    def better(self) -> bool:
        """Whether the head is better than the control beyond error."""
        return self.low > 0

    @property
    def worse(self) -> bool:
        """Whether the head is worse than the control beyond error."""
        return self.high < 0


@dataclass(frozen=True)
class Fit:
    """The fitted model: means over seeds without the seeds' effects, and their uncertainty.

    Attributes:
        names: the heads.
        means: μ of each head.
        covariance: of the means; NaN if no degree of freedom is left.
        freedom: degrees of freedom of the variance.
        deviation: standard deviation of ε, one run around its head's mean.
    """

    names: tuple[str, ...]
    means: npt.NDArray[np.float64]
    covariance: npt.NDArray[np.float64]
    freedom: int
    deviation: float


def fit(table: pd.DataFrame, column: str) -> Fit:
    """Fits accuracy(head h, seed s) = μ_h + σ_s + ε by least squares.

    Args:
        table: a row a solo run: `candidate`, `seed` and the column. Heads may lack seeds, but every
            seed must share a head with the others.
        column: the accuracy.
    """
    names = tuple(dict.fromkeys(table["candidate"]))
    seeds = list(dict.fromkeys(table["seed"]))
    of_head = np.equal.outer(table["candidate"].to_numpy(), np.array(names, dtype=object))
    of_seed = np.equal.outer(table["seed"].to_numpy(), np.array(seeds))
    # Seed effects add up to 0, so the last seed's is minus the sum of the others.
    of_seed = of_seed[:, :-1].astype(float) - of_seed[:, -1:].astype(float)
    design = np.hstack([of_head.astype(float), of_seed])
    values = table[column].to_numpy(dtype=float)
    solution, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    freedom = len(values) - int(rank)
    residual = values - design @ solution
    variance = float(residual @ residual) / freedom if freedom else math.nan
    covariance = np.linalg.pinv(design.T @ design)[: len(names), : len(names)] * variance
    return Fit(names, solution[: len(names)], covariance, freedom, math.sqrt(variance))


def gains(table: pd.DataFrame, column: str, control: str) -> dict[str, Gain]:
    """The gain of every candidate but the control, compared with the control.

    Args:
        table: as in `fit`.
        column: the accuracy.
        control: the candidate that the others are compared with.
    """
    fitted = fit(table, column)
    at = fitted.names.index(control)
    others = [index for index in range(len(fitted.names)) if index != at]
    contrast = np.zeros((len(others), len(fitted.names)))
    contrast[np.arange(len(others)), others] = 1
    contrast[:, at] = -1
    values = contrast @ fitted.means
    covariance = contrast @ fitted.covariance @ contrast.T
    runs = [int(number) for number in (table["candidate"].value_counts()[list(fitted.names)])]
    errors = np.sqrt(np.diag(covariance))
    # One seed leaves no degree of freedom: gains without intervals.
    has_error = bool(fitted.freedom and (errors > 0).all())
    largest = largest_of_t(covariance, fitted.freedom) if has_error else np.full(DRAWS, math.nan)
    critical = float(np.quantile(largest, 0.95))
    result = {}
    for index, value, error in zip(others, map(float, values), map(float, errors), strict=True):
        half = critical * error
        hits = int((largest >= abs(value) / error).sum()) if has_error else 0
        p = (1 + hits) / (1 + DRAWS) if has_error else math.nan
        result[fitted.names[index]] = Gain(
            value, error if has_error else math.nan, value - half, value + half, p, runs[index]
        )
    return result


def largest_of_t(
    covariance: npt.NDArray[np.float64], freedom: int, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Draws of max |T_i|, where T is multivariate t with the correlations of this covariance.

    Drawn rather than looked up: missing runs lead to correlations that no published table covers.
    """
    error = np.sqrt(np.diag(covariance))
    rng = np.random.default_rng(seed)
    normal = rng.multivariate_normal(
        np.zeros(len(error)), covariance / np.outer(error, error), size=DRAWS, method="eigh"
    )
    scale = np.sqrt(rng.chisquare(freedom, size=DRAWS) / freedom)
    largest: npt.NDArray[np.float64] = np.abs(normal).max(axis=1) / scale
    return largest


@dataclass(frozen=True)
class Verified:
    """What the solo runs of a search show.

    Attributes:
        over_none: the gain of every candidate over the base pretrained alone.
        over_control: the gain of every candidate but the control over the control.
        control: the head of the base's own kind of block, or `identity` if the base has none; None
            if neither ran.
        order: the heads without controls, the largest gain first. The order is found on the labels
            that may choose; the gains themselves are on the reporting labels.
        deviation: standard deviation of one run, the seed's effect removed, as a fraction; NaN with
            one seed.
        seeds: the number of seeds.
    """

    over_none: dict[str, Gain]
    over_control: dict[str, Gain]
    control: str | None
    order: tuple[str, ...]
    deviation: float
    seeds: int

    @property
    def best(self) -> str:
        """The first head in `order` that helps beyond error; the first of all if none does."""
        return next((name for name in self.order if self.over_none[name].better), self.order[0])


def verified(run: Run) -> Verified | None:
    """What the solo runs of a search show.

    None unless there are runs with no head and runs with at least one head.
    """
    table = run.solo
    if NO_HEAD not in set(table["candidate"]) or table["candidate"].nunique() < 2:
        return None
    # A seed without a run of no head has nothing to compare with.
    shared = table[table["seed"].isin(table.loc[table["candidate"] == NO_HEAD, "seed"])]
    scored = shared.assign(
        accuracy=shared[["base_knn", "base_linear"]].mean(axis=1),
        chooses=shared[["choose_knn", "choose_linear"]].mean(axis=1),
    )
    families = dict(zip(scored["candidate"], scored["family"], strict=True))
    heads = [
        name for name, family in families.items() if family not in (NO_HEAD, *CONTROL_FAMILIES)
    ]
    choosing = fit(scored, "chooses")
    means = dict(zip(choosing.names, choosing.means, strict=True))
    controls = {family: name for name, family in families.items() if family in CONTROL_FAMILIES}
    control = controls.get("own", controls.get("identity"))
    return Verified(
        over_none=gains(scored, "accuracy", NO_HEAD),
        over_control=gains(scored, "accuracy", control) if control is not None else {},
        control=control,
        order=tuple(sorted(heads, key=lambda name: -means[name])),
        deviation=fit(scored, "accuracy").deviation,
        seeds=int(scored["seed"].nunique()),
    )


def write_gains(run: Run) -> None:
    """Adds the columns gain, gain_low and gain_high to ranking.csv, if there are solo runs."""
    result = verified(run)
    if result is None:
        return
    ranking = run.ranking[list(RANKING_COLUMNS)].copy()
    for column, name in (("gain", "value"), ("gain_low", "low"), ("gain_high", "high")):
        ranking[column] = [
            getattr(result.over_none[head], name) if head in result.over_none else math.nan
            for head in ranking["candidate"]
        ]
    write_table(run.path / "ranking.csv", ranking)
