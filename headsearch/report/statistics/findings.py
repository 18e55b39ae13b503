"""The rule of `explain`: which differences between bases are beyond seeds and beyond `own`.

Models share seeds, so a measure has an effect for each model and each seed, as gains have (see
`gains.py`): measure(model m, seed s, block b) = μ_mb + σ_sb + ε. The intervals of a head's
difference from the base with no head hold for all heads and all blocks of an analysis at once:
Dunnett over the heads, Bonferroni over the blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pandas as pd

from headsearch.report.statistics.gains import largest_of_t

MEASURED = ("analysis", "target", "model", "seed", "block", "value", "error")
"""Columns of measurements.csv: `target` is the head whose tokens the base is compared with, in the
analyses toward a head; `error` is half of the 95 % interval over images. Empty where they do not
apply."""


@dataclass(frozen=True)
class Difference:
    """How a model differs from the base with no head, in one measure at one block.

    Attributes:
        analysis, model, block: what was measured.
        value: the mean over seeds of the difference from the base with no head.
        low, high: bounds of its 95 % interval, simultaneous over heads and blocks; NaN with one
            seed.
        floor: the least difference that counts: what two seeds of the same model typically differ
            by (root mean square), or the error over images if that is larger. NaN with one seed.
        own: the difference of the base with its own kind of head; NaN without one.
        kind: "specific": beyond the seeds and beyond the own head. "any": beyond the seeds, and so
            is the own head's, in the same direction. Empty: neither.
    """

    analysis: str
    model: str
    block: str
    value: float
    low: float
    high: float
    floor: float
    own: float
    kind: str


def differences(
    table: pd.DataFrame, none: str, own: str | None, heads: Sequence[str]
) -> list[Difference]:
    """The differences of all heads, of all analyses and blocks of a table.

    Seeds that one of the models lacks are left out. A block where some value is not finite is left
    out too.

    Args:
        table: measurements with the columns `MEASURED`. Further models serve to estimate the noise.
        none: the name of the base with no head.
        own: that of the base with its own kind of head; None without one.
        heads: the heads, each compared with both.
    """
    found = []
    for (analysis, target), part in table.groupby(["analysis", "target"], sort=False):
        models = [m for m in dict.fromkeys(part["model"]) if m != none]
        asked = [str(target)] if target else heads
        here = [head for head in asked if head in models]
        found += _of_analysis(str(analysis), part, [none, *models], own, here, len(heads))
    return found


def _of_analysis(
    analysis: str,
    part: pd.DataFrame,
    models: list[str],
    own: str | None,
    here: Sequence[str],
    heads: int,
) -> list[Difference]:
    """The differences of some heads in one analysis; `models` begins with the base with no head."""
    blocks = list(dict.fromkeys(part["block"]))
    seeds = _shared_seeds(part, models)
    if not here or models[0] not in set(part["model"]) or not seeds:
        return []
    values_BMS = _cube(part, "value", blocks, models, seeds)
    finite = [bool(np.isfinite(values_MS).all()) for values_MS in values_BMS]
    blocks = [block for block, kept in zip(blocks, finite, strict=True) if kept]
    values_BMS, errors_BM = values_BMS[finite], _image_errors(part, blocks, models)
    if not blocks:
        return []
    noise = Noise.of(values_BMS, compared=heads + (own in models))
    means_BM = values_BMS.mean(axis=2)
    at = {model: index for index, model in enumerate(models)}
    rows = []
    for head in here:
        for index, block in enumerate(blocks):
            value = float(means_BM[index, at[head]] - means_BM[index, 0])
            of_own = float(means_BM[index, at[own]] - means_BM[index, 0]) if own in at else math.nan
            error = float(errors_BM[index, at[head]])
            floor = max(float(noise.floors[index]), error if math.isfinite(error) else 0.0)
            half = float(noise.halves[index])
            kind = _kind(value, of_own, half, floor)
            low, high = value - half, value + half
            rows.append(
                Difference(analysis, head, str(block), value, low, high, floor, of_own, kind)
            )
    return rows


def _kind(value: float, own: float, half: float, floor: float) -> str:
    """Whether a difference is the head's own, that of having any head, or neither.

    NaN, from a single seed or without a run with the own head, is neither.
    """
    least = max(half, floor) if math.isfinite(half) else math.nan
    if not abs(value) > least or not math.isfinite(own):
        return ""
    direction = math.copysign(1, value)
    if (value - own) * direction > half and abs(value) > abs(own):
        return "specific"
    return "any" if own * direction > least else ""


@dataclass(frozen=True)
class Noise:
    """How far differences of models vary by chance, by block.

    Attributes:
        halves: (B,) half the width of the simultaneous interval of a difference of two models.
        floors: (B,) the root mean square difference of two seeds of one model.
    """

    halves: npt.NDArray[np.float64]
    floors: npt.NDArray[np.float64]

    @classmethod
    def of(cls, values_BMS: npt.NDArray[np.float64], compared: int) -> Noise:
        """The noise in a measure of B blocks, M models and S seeds; NaN with one seed.

        Args:
            values_BMS: the measure.
            compared: the number of models that are compared with the base with no head.
        """
        blocks, models, seeds = values_BMS.shape
        freedom = (models - 1) * (seeds - 1)
        if not freedom:
            unknown = np.full(blocks, math.nan)
            return cls(unknown, unknown)
        residuals = (
            values_BMS
            - values_BMS.mean(axis=1, keepdims=True)
            - values_BMS.mean(axis=2, keepdims=True)
            + values_BMS.mean(axis=(1, 2), keepdims=True)
        )
        variances_B = (residuals**2).sum(axis=(1, 2)) / freedom
        # Few runs give some block a variance near 0 by chance: none counts as less than the mean.
        variances_B = np.maximum(variances_B, variances_B.mean())
        halves = critical_value(compared, freedom, blocks) * np.sqrt(2 * variances_B / seeds)
        pairs = combinations(range(seeds), 2)
        squares = [(values_BMS[..., i] - values_BMS[..., j]) ** 2 for i, j in pairs]
        return cls(halves, np.sqrt(np.mean(squares, axis=(0, 2))))


def critical_value(compared: int, freedom: int, blocks: int) -> float:
    """By how many standard errors a difference must exceed 0 to be beyond chance.

    Args:
        compared: the number of models that are compared with one control.
        freedom: degrees of freedom of the variance.
        blocks: the number of blocks.
    """
    share = np.full((compared, compared), 0.5) + 0.5 * np.eye(compared)  # of a common control
    return float(np.quantile(largest_of_t(share, freedom), 1 - 0.05 / blocks))


def _shared_seeds(part: pd.DataFrame, models: Sequence[str]) -> list[int]:
    """The seeds under which all models were measured, ascending."""
    by_model = [set(part.loc[part["model"] == model, "seed"]) for model in models]
    return sorted(set.intersection(*by_model)) if by_model else []


def _cube(
    part: pd.DataFrame, column: str, blocks: list[str], models: list[str], seeds: list[int]
) -> npt.NDArray[np.float64]:
    """A column as blocks × models × seeds; NaN where there is no row."""
    names = (part[name].tolist() for name in ("block", "model", "seed"))
    cells = dict(zip(zip(*names, strict=True), part[column].tolist(), strict=True))
    return np.array(
        [[[cells.get((b, m, s), math.nan) for s in seeds] for m in models] for b in blocks]
    ).reshape(len(blocks), len(models), len(seeds))


def _image_errors(
    part: pd.DataFrame, blocks: list[str], models: list[str]
) -> npt.NDArray[np.float64]:
    """The mean error over images by block and model; NaN where it was not measured."""
    means = part.groupby(["block", "model"])["error"].mean().to_dict()
    return np.array(
        [[means.get((block, model), math.nan) for model in models] for block in blocks], dtype=float
    ).reshape(len(blocks), len(models))
