"""An estimate with its interval over images: the delete-a-group jackknife.

A bootstrap draws images twice, and a pair of equal images looks alike to every kernel: it brings
back the bias that the debiased CKA removes. Leaving images out never does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.special import stdtrit
from torch import Tensor

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A score on all images, and the ends of its 95 % interval. NaN where it is not defined.

    The ends are not cut off at the score's range: a debiased score may leave it.
    """

    value: float
    low: float
    high: float


def group_of_images(images: int, groups: int) -> Tensor:
    """The group, 0 to groups − 1, of each image: (images,) int64, on the CPU.

    A fixed shuffle, the same in every process, into groups whose sizes differ by one at most.
    Shuffled, because `i % groups` on images that cycle through their classes would put whole
    classes into a group, and the interval would come out several times too wide.

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
        score: the score of the images at the given indices (int64, ascending), of all at None.
        images: how many images there are.
        groups: how many groups they are left out in; see `group_of_images`.
    """

    def one_by_one(kept_SN: Tensor) -> list[float]:
        return [score(None), *(score(kept_N.nonzero().flatten()) for kept_N in kept_SN[1:])]

    return jackknife_at_once(one_by_one, images, groups)


def jackknife_at_once(
    scores: Callable[[Tensor], Sequence[float]], images: int, groups: int = 20
) -> Estimate:
    """`jackknife` of a score that is computed for all subsets of the images at once.

    The groups' sizes may differ by one image, so the variance is that of Busing, Meijer & van der
    Leeden, *Delete-m jackknife for unequal m* (1999), eq. 5–6; with equal groups it is the usual
    (g − 1)/g Σ(θ₍ⱼ₎ − θ̄)². The interval is symmetric, with Student's t of g − 1 degrees of freedom.

    Args:
        scores: the score of each subset; from which images it keeps, (1 + groups, images) bool, the
            first row all of them.
    """
    group_N = group_of_images(images, groups)
    sizes = torch.bincount(group_N, minlength=groups).tolist()
    left_out_GN = group_N != torch.arange(groups).unsqueeze(1)
    value, *left_out = scores(torch.cat([torch.ones(1, images, dtype=torch.bool), left_out_GN]))

    centre = groups * value - sum(
        (1 - m / images) * theta for m, theta in zip(sizes, left_out, strict=True)
    )
    variance = 0.0
    for m, theta in zip(sizes, left_out, strict=True):
        share = images / m
        pseudo = share * value - (share - 1) * theta
        variance += (pseudo - centre) ** 2 / (share - 1) / groups
    half = float(stdtrit(groups - 1, (1 + LEVEL) / 2)) * math.sqrt(variance)
    return Estimate(value, value - half, value + half)
