"""How much each head helps the base, from solo runs that share seeds, and how sure that is.

Runs of one seed start from the same weights and see the same images in the same order, so they rise
and fall together. The model takes that out: accuracy(head h, seed s) = μ_h + σ_s + ε, fitted by
least squares, with one variance of ε for all heads: three runs alone say little of a head's own.
Gains are differences of the μ_h from a control's. Their intervals hold for all heads at once, after
Dunnett (1955, JASA 50), so that the best of many is not called better by luck.
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
"""Draws behind a critical value: it is exact to about 0.3 %, and the same every time."""


@dataclass(frozen=True)
class Gain:
    """What a head adds to the accuracy of the base, against a control.

    Attributes:
        value: the difference, as a fraction.
        low, high: bounds of its 95 % interval, simultaneous over all heads; NaN with one seed.
        p: of no difference, two-sided, adjusted for the number of heads; NaN with one seed.
        runs: solo runs of this head.
    """

    value: float
    low: float
    high: float
    p: float
    runs: int

    @property
    def better(self) -> bool:
        return self.low > 0

    @property
    def worse(self) -> bool:
        return self.high < 0


@dataclass(frozen=True)
class Fit:
    """Means over seeds with the seed's own effect taken out, and their uncertainty."""

    names: tuple[str, ...]
    means: npt.NDArray[np.float64]
    covariance: npt.NDArray[np.float64]
    """Of the means; NaN where no degree of freedom is left."""
    freedom: int
    """Degrees of freedom behind the variance."""
    deviation: float
    """Of one run around its head's mean, the seed's effect taken out."""


def fit(table: pd.DataFrame, column: str) -> Fit:
    """Fits the model of this page.

    Args:
        table: a row a solo run: `candidate`, `seed` and the column; heads may lack seeds, but
            every seed must share a head with the others.
        column: the accuracy.
    """
    names = tuple(dict.fromkeys(table["candidate"]))
    seeds = list(dict.fromkeys(table["seed"]))
    of_head = np.equal.outer(table["candidate"].to_numpy(), np.array(names, dtype=object))
    of_seed = np.equal.outer(table["seed"].to_numpy(), np.array(seeds))
    # Seed effects add up to 0: each is the contrast with the last seed's.
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
    """The gain of every candidate but the control, against it.

    Args:
        table: as in `fit`.
        control: the candidate that the others are compared with.
    """
    found = fit(table, column)
    at = found.names.index(control)
    others = [index for index in range(len(found.names)) if index != at]
    contrast = np.zeros((len(others), len(found.names)))
    contrast[np.arange(len(others)), others] = 1
    contrast[:, at] = -1
    values = contrast @ found.means
    covariance = contrast @ found.covariance @ contrast.T
    runs = [int(number) for number in (table["candidate"].value_counts()[list(found.names)])]
    errors = np.sqrt(np.diag(covariance))
    sure = bool(found.freedom and (errors > 0).all())
    largest = largest_of_t(covariance, found.freedom) if sure else np.full(DRAWS, math.nan)
    reach = float(np.quantile(largest, 0.95))
    result = {}
    for index, value, error in zip(others, map(float, values), map(float, errors), strict=True):
        half = reach * error
        p = (1 + int((largest >= abs(value) / error).sum())) / (1 + DRAWS) if sure else math.nan
        result[found.names[index]] = Gain(value, value - half, value + half, p, runs[index])
    return result


def largest_of_t(
    covariance: npt.NDArray[np.float64], freedom: int, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Draws of max |T_i|, T multivariate t with this covariance's correlations.

    Drawn rather than integrated, for runs that are missing leave correlations that no table has.
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
    """What the solo runs of a search say.

    Attributes:
        over_none: the gain of every candidate over the base pretrained alone.
        over_control: over the homogeneous control, of all but that.
        control: the base's own kind of block, or `identity` where the base has none; None
            where neither ran.
        order: the heads, controls left out, the largest gain first. It is found on the labels that
            may choose; the gains themselves are on the reporting labels.
        deviation: of one run, the seed's effect taken out, as a fraction; NaN with one seed.
        seeds: how many there are.
    """

    over_none: dict[str, Gain]
    over_control: dict[str, Gain]
    control: str | None
    order: tuple[str, ...]
    deviation: float
    seeds: int


def verified(run: Run) -> Verified | None:
    """What the solo runs of a search say; None without one of no head and one of another."""
    table = run.solo
    if NO_HEAD not in set(table["candidate"]) or table["candidate"].nunique() < 2:
        return None
    shared = table[table["seed"].isin(table.loc[table["candidate"] == NO_HEAD, "seed"])]
    scored = shared.assign(
        accuracy=shared[["base_knn", "base_linear"]].mean(axis=1),
        chooses=shared[["choose_knn", "choose_linear"]].mean(axis=1),
    )
    families = dict(zip(scored["candidate"], scored["family"], strict=True))
    heads = [name for name, of in families.items() if of not in (NO_HEAD, *CONTROL_FAMILIES)]
    choosing = fit(scored, "chooses")
    means = dict(zip(choosing.names, choosing.means, strict=True))
    controls = {of: name for name, of in families.items() if of in CONTROL_FAMILIES}
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
    """Adds to ranking.csv what each head gains the base, where solo runs say so."""
    found = verified(run)
    if found is None:
        return
    ranking = run.ranking[list(RANKING_COLUMNS)].copy()
    for column, name in (("gain", "value"), ("gain_low", "low"), ("gain_high", "high")):
        ranking[column] = [
            getattr(found.over_none[head], name) if head in found.over_none else math.nan
            for head in ranking["candidate"]
        ]
    write_table(run.path / "ranking.csv", ranking)
