"""Schedules over a run: learning rate, weight decay, teacher momentum and temperature.

Each schedule is a function of the step and returns a plain number. Its start, end and duration come
from the recipe (`config/recipes.py`). All schedules reach their end at the last step of the run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from headsearch.config.recipes import SHORT, Recipe


@dataclass(frozen=True)
class StepPosition:
    """The position of a step in a run.

    Attributes:
        step: the index of the step, 0 … steps − 1.
        steps: the number of steps of the run.
    """

    step: int
    steps: int

    @property
    def progress(self) -> float:
        """The progress of the run, from 0 at the first step to 1 at the last."""
        return self.step / max(1, self.steps - 1)


def cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from `start` at progress 0 to `end` at progress 1."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def learning_rate(position: StepPosition, peak: float, recipe: Recipe = SHORT) -> float:
    """Linear warm-up over the recipe's share of the steps, then a cosine down to its floor.

    Args:
        position: the step.
        peak: the learning rate at the end of the warm-up.
        recipe: gives the share of the warm-up and the floor, which is lowered to `peak` if higher.
    """
    warm_steps = recipe.warm_up * position.steps
    if position.step < warm_steps:
        return peak * (position.step + 1) / (math.floor(warm_steps) + 1)
    rest = max(1.0, position.steps - 1 - warm_steps)
    return cosine(peak, min(peak, recipe.lr_floor), (position.step - warm_steps) / rest)


def weight_decay(position: StepPosition, start: float, recipe: Recipe = SHORT) -> float:
    """A cosine from `start` to the recipe's final weight decay; constant if it has none."""
    if recipe.weight_decay_end is None:
        return start
    return cosine(start, recipe.weight_decay_end, position.progress)


def teacher_momentum(position: StepPosition, recipe: Recipe = SHORT) -> float:
    """The teacher's EMA momentum: a cosine from m₀ to 1.

    m₀ is the recipe's momentum, lowered in short runs so that (1 − m₀) · steps ≥ the recipe's
    `turnovers`: with a higher momentum the teacher would hardly leave its initialisation.
    """
    start = min(recipe.momentum, max(0.0, 1 - recipe.turnovers / position.steps))
    return cosine(start, 1.0, position.progress)


def warm_up(start: float, end: float, progress: float, share: float) -> float:
    """Linear from `start` to `end` over the first `share` (0 to 1) of the run, then constant."""
    return start + (end - start) * min(1.0, progress / share)
