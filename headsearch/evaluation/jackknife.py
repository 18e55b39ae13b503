"""Delete-a-group jackknife: a score with its 95 % interval over images.

A bootstrap draws some images twice, and a pair of equal images has the highest similarity under
every kernel: this brings back the bias that debiased CKA removes. The jackknife only leaves images
out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.special import stdtrit
from torch import Tensor

LEVEL = 0.95
"""Confidence level of the interval."""


@dataclass(frozen=True)
class Estimate:
    """A score on all images and its 95 % interval; NaN if the score is not defined.

    The bounds are not clipped to the range of the score: a debiased score may leave its range.
    """

    value: float
    low: float
    high: float


def group_of_images(images: int, groups: int) -> Tensor:
    """The group of each image, 0 to groups − 1: (images,) int64, on the CPU.

    A fixed shuffle, the same in every process, into groups whose sizes differ by at most one.
    Shuffled because images often cycle through their classes: `i % groups` would then put whole
    classes into one group and make the interval several times too wide.

    Raises:
        ValueError: fewer than two groups, or fewer images than groups.
    """
    if not 2 <= groups <= images:
        raise ValueError(
            f"The jackknife needs 2 <= groups <= images, but got {groups=} and {images=}."
        )
    order = torch.randperm(images, generator=torch.Generator().manual_seed(0))
    group = torch.empty(images, dtype=torch.int64)
    group[order] = torch.arange(images) % groups
    return group


def jackknife(score: Callable[[Tensor | None], float], images: int, groups: int = 20) -> Estimate:
    """The score on all images with a 95 % interval, from `groups` recomputations.

    Args:
        score: from the indices of images (int64, ascending) to their score; None stands for all
            images.
        images: the number of images.
        groups: the number of groups that are left out in turn; see `group_of_images`.
    """

    def one_by_one(kept_SN: Tensor) -> list[float]:
        return [score(None), *(score(kept_N.nonzero().flatten()) for kept_N in kept_SN[1:])]

    return jackknife_at_once(one_by_one, images, groups)


def jackknife_at_once(
    scores: Callable[[Tensor], Sequence[float]], images: int, groups: int = 20
) -> Estimate:
    """`jackknife` of a score that is computed for all subsets of the images at once.

    The sizes of the groups may differ by one image, so the variance is that of Busing, Meijer & van
    der Leeden, *Delete-m jackknife for unequal m* (1999), eq. 5–6; with equal groups it is the
    usual (g − 1)/g Σ(θ₍ⱼ₎ − θ̄)². The interval is symmetric, with Student's t of g − 1 degrees of
    freedom.

    Args:
        scores: from the images that each subset keeps, (1 + groups, images) bool, to the score of
            each subset. The first subset is all images.
        images: the number of images.
        groups: the number of groups that are left out in turn.
    """
    group_N = group_of_images(images, groups)
    sizes = torch.bincount(group_N, minlength=groups).tolist()
    kept_GN = group_N != torch.arange(groups).unsqueeze(1)
    value, *replicates = scores(torch.cat([torch.ones(1, images, dtype=torch.bool), kept_GN]))

    centre = groups * value - sum(
        (1 - m / images) * theta for m, theta in zip(sizes, replicates, strict=True)
    )
    variance = 0.0
    for m, theta in zip(sizes, replicates, strict=True):
        h = images / m
        pseudo_value = h * value - (h - 1) * theta
        variance += (pseudo_value - centre) ** 2 / (h - 1) / groups
    half = float(stdtrit(groups - 1, (1 + LEVEL) / 2)) * math.sqrt(variance)
    return Estimate(value, value - half, value + half)
