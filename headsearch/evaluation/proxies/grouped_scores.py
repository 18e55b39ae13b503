"""`GroupedScores`: scores over groups of samples, and paired differences with standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor

from headsearch.data.dense.images import GROUPS
from headsearch.evaluation.proxies.dense_task import Statistic


@dataclass(frozen=True)
class GroupedScores:
    """Scores of one representation whose samples are in groups, by name.

    A score of one class or of one task is named SCORE/CLASS (`OF_CLASS`).

    Attributes:
        choose: on the evaluation samples that choose between heads.
        report: on those that are reported on.
        without: the latter without each of their `GROUPS` contiguous groups.
    """

    choose: Mapping[str, float] = field(default_factory=dict)
    report: Mapping[str, float] = field(default_factory=dict)
    without: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def grouped_scores(statistics: Mapping[str, Statistic]) -> GroupedScores:
    """The scores on both halves of the samples, and those without each group of the second."""
    number_G = torch.arange(2 * GROUPS)
    choosing_G, reporting_G = number_G % 2 == 0, number_G % 2 == 1
    without = [reporting_G & (number_G != left_out) for left_out in number_G[reporting_G]]
    return GroupedScores(
        {name: score(choosing_G) for name, score in statistics.items()},
        {name: score(reporting_G) for name, score in statistics.items()},
        {name: tuple(score(kept_G) for kept_G in without) for name, score in statistics.items()},
    )


def joined(scores: Sequence[GroupedScores]) -> GroupedScores:
    """The scores of one representation on several data sets, which have different names."""
    return GroupedScores(
        {name: value for each in scores for name, value in each.choose.items()},
        {name: value for each in scores for name, value in each.report.items()},
        {name: values for each in scores for name, values in each.without.items()},
    )


def mean_of_seeds(scores: Sequence[GroupedScores]) -> GroupedScores:
    """The mean of each score."""
    # A seed whose features are not finite has none.
    names = [n for n in scores[0].report if all(n in each.report for each in scores)]
    return GroupedScores(
        {name: fmean(each.choose[name] for each in scores) for name in names},
        {name: fmean(each.report[name] for each in scores) for name in names},
        {
            name: tuple(map(fmean, zip(*(each.without[name] for each in scores), strict=True)))
            for name in names
        },
    )


def reporting(group_N: Tensor) -> Tensor:
    """Which evaluation images are reported on: (N,) bool."""
    return group_N % 2 == 1


def standard_error(without: Sequence[float]) -> float:
    """The jackknife's standard error from the scores without each group, of equal sizes.

    √((g − 1)/g · Σ(θ₍ⱼ₎ − θ̄)²), Efron & Tibshirani 1993, eq. 11.5. NaN if a score is.
    """
    values = list(without)
    if len(values) < 2 or any(map(math.isnan, values)):
        return math.nan
    centre = fmean(values)
    squares = sum((value - centre) ** 2 for value in values)
    return math.sqrt((len(values) - 1) / len(values) * squares)


def paired_error(without: Sequence[float], other: Sequence[float]) -> float:
    """The standard error of the difference of two representations on the same images."""
    if len(without) != len(other):
        return math.nan
    return standard_error([a - b for a, b in zip(without, other, strict=True)])
