"""Schedules: short runs get warm-ups and momenta that fit them."""

from __future__ import annotations

import math

import pytest

from headsearch.training.schedules import (
    StepPosition,
    cosine,
    learning_rate,
    teacher_momentum,
    warm_up,
)


@pytest.mark.parametrize("steps", [20, 100, 1000, 100_000])
def test_the_teacher_is_renewed_at_least_ten_times_and_never_slower_than_published(
    steps: int,
) -> None:
    start = teacher_momentum(StepPosition(0, steps))
    assert (1 - start) * steps >= 10 - 1e-9
    assert start <= 0.996
    assert teacher_momentum(StepPosition(steps - 1, steps)) == 1.0
    # the cosine of arXiv 2104.14294, halfway
    middle = teacher_momentum(StepPosition((steps - 1) // 2, steps))
    assert middle == pytest.approx((1 + start) / 2, abs=1 / steps + 1e-3)


@pytest.mark.parametrize("steps", [10, 97, 1000])
def test_the_learning_rate_warms_up_over_a_tenth_then_follows_a_cosine_to_zero(steps: int) -> None:
    rates = [learning_rate(StepPosition(step, steps), 0.5) for step in range(steps)]
    top = rates.index(max(rates))
    assert rates[0] > 0
    assert max(rates) == pytest.approx(0.5, rel=0.1)
    assert top <= math.ceil(0.1 * steps)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_the_ends_and_the_middle_of_a_cosine() -> None:
    assert (cosine(2, 1, 0), cosine(2, 1, 0.5), cosine(2, 1, 1)) == (2, 1.5, 1)


def test_a_linear_warm_up_stays_at_its_end() -> None:
    assert [warm_up(0.04, 0.07, p, 0.5) for p in (0, 0.25, 0.5, 1)] == pytest.approx(
        [0.04, 0.055, 0.07, 0.07]
    )
