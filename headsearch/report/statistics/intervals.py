"""95 % intervals of accuracies, and whether two figures can be told apart."""

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
