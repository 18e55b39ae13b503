"""95 % intervals of accuracies, and whether two figures differ beyond them."""

from __future__ import annotations

import math
from typing import NamedTuple

Z_95 = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution


class Interval(NamedTuple):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


def accuracy_interval(accuracy: float, images: int) -> Interval:
    """An accuracy on `images` images with its binomial interval (Wilson 1927, JASA 22).

    Unlike the normal interval, it stays within 0 to 1. NaN gives NaN.
    """
    z2_n = Z_95**2 / images  # z²/n in Wilson's formula
    centre = (accuracy + z2_n / 2) / (1 + z2_n)
    half = math.sqrt(accuracy * (1 - accuracy) * z2_n + z2_n**2 / 4) / (1 + z2_n)
    return Interval(accuracy, centre - half, centre + half)


def told_apart(first: Interval, second: Interval) -> bool:
    """Whether the 95 % interval of the two figures' difference excludes 0.

    The interval of the difference comes from the two intervals by Newcombe's square-and-add method
    (1998, Statistics in Medicine 17, method 10), which assumes that they are independent. The
    errors of two heads scored on the same images are correlated, so this function is conservative:
    it says False somewhat too often.
    """
    upper, lower = (first, second) if first.value >= second.value else (second, first)
    margin = math.hypot(upper.value - upper.low, lower.high - lower.value)
    return upper.value - lower.value > margin
