"""Predictions of a head's gain from published solo runs: by a model, and by the mean gain so far.

`published_gains.csv` beside this file has a row for each head and setting. It is written by
`benchmarks/published_gains.py` from the tables in `results/`. A *setting* is a base, an objective,
a data set and a length of training. A *gain* is the difference in the base's accuracy between a
solo run with the head and one with no head; accuracy is the mean of k-NN and linear probe on all
evaluation images.

The model is

    gain = a + b · advantage + c · [discrepancy > t]

by least squares; the threshold t is that with the least squared error, of those between two heads.
`advantage` is the linear accuracy of the head minus that of the base, at a rung of a search, on the
labels that may choose. The gate is there because heads that hardly differ from the base do not help
it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import stdtrit

TABLE = Path(__file__).with_suffix(".csv")
LEAST_HEADS = 3
"""Fewest heads on either side of the threshold."""
PARAMETERS = 4
"""a, b, c and t."""


@dataclass(frozen=True)
class GainModel:
    """The model; gains and advantages are fractions.

    Attributes:
        intercept, slope, step, threshold: a, b, c and t.
    """

    intercept: float
    slope: float
    step: float
    threshold: float

    def predict(self, advantage: float, discrepancy: float) -> float:
        """The expected gain; NaN if one of the arguments is."""
        if math.isnan(advantage) or math.isnan(discrepancy):
            return math.nan
        return self.intercept + self.slope * advantage + self.step * (discrepancy > self.threshold)


@dataclass(frozen=True)
class FittedModel:
    """The model fitted on published settings, and how well it predicts what it has not seen.

    Attributes:
        model: fitted on all rows.
        error: root mean square error of the predictions for a setting that is left out of the fit;
            with one setting, for a family that is left out.
        heads: the number of rows, one a head and setting.
        settings: the number of settings.
    """

    model: GainModel
    error: float
    heads: int
    settings: int

    @property
    def half_width(self) -> float:
        """Half of the 95 % prediction interval: the error times Student's t."""
        return float(stdtrit(self.heads - PARAMETERS, 0.975)) * self.error


@cache
def published() -> pd.DataFrame:
    """The table. `base, objective, data, width, tokens, images, steps` describe a `setting`;
    `candidate, family, advantage, discrepancy, gain` a head in it."""
    return pd.read_csv(TABLE)


@cache
def published_model() -> FittedModel:
    """The model fitted on all published settings."""
    return fit(published().dropna())


def fit(table: pd.DataFrame) -> FittedModel:
    """Fits the model and measures its error on rows that are left out.

    Args:
        table: `setting, family, advantage, discrepancy, gain`, a row a head and setting.
    """
    group = "setting" if table["setting"].nunique() > 1 else "family"
    errors = [
        row["gain"] - without.predict(row["advantage"], row["discrepancy"])
        for left_out, rows in table.groupby(group)
        for without in [least_squares(table[table[group] != left_out])]
        for row in rows.to_dict("records")
    ]
    return FittedModel(
        least_squares(table),
        math.sqrt(sum(error**2 for error in errors) / len(errors)),
        len(table),
        int(table["setting"].nunique()),
    )


def least_squares(table: pd.DataFrame) -> GainModel:
    """The model of a table with the columns `advantage, discrepancy, gain`.

    Raises:
        ValueError: the table has too few heads for a threshold.
    """
    advantage_N, discrepancy_N, gain_N = (
        table[name].to_numpy(dtype=float) for name in ("advantage", "discrepancy", "gain")
    )
    sorted_N = np.sort(discrepancy_N)
    between = ((sorted_N[1:] + sorted_N[:-1]) / 2)[LEAST_HEADS - 1 : 1 - LEAST_HEADS]
    if not len(between):
        raise ValueError(f"needs {2 * LEAST_HEADS} heads or more, but got {len(table)}")
    best, least = None, math.inf
    for threshold in map(float, between):
        design = np.column_stack(
            [np.ones(len(table)), advantage_N, (discrepancy_N > threshold).astype(float)]
        )
        coefficients = np.linalg.lstsq(design, gain_N, rcond=None)[0]
        squares = float(((gain_N - design @ coefficients) ** 2).sum())
        if squares < least:
            intercept, slope, step = map(float, coefficients)
            best, least = GainModel(intercept, slope, step, threshold), squares
    assert best is not None
    return best


def predicted_gain(advantage: float, discrepancy: float) -> float:
    """The gain of a head as predicted from published settings, a fraction; NaN if unknown.

    Args:
        advantage: linear accuracy of the head minus that of the base.
        discrepancy: 1 − CKA.
    """
    return published_model().model.predict(advantage, discrepancy)


def static_prior(candidate: str, family: str, table: pd.DataFrame | None = None) -> float:
    """The mean gain of a head in published settings, a fraction: a prediction without any search.

    Gains are taken relative to the mean gain of their setting. The mean over settings is that of
    the candidate; if it was in none, that of its family; if that was in none either, 0.

    Args:
        candidate: its name.
        family: its family.
        table: `setting, candidate, family, gain`; by default the published one.
    """
    table = published() if table is None else table
    relative = table["gain"] - table.groupby("setting")["gain"].transform("mean")
    for column, name in (("candidate", candidate), ("family", family)):
        known = relative[table[column] == name]
        if len(known):
            return float(known.mean())
    return 0.0
