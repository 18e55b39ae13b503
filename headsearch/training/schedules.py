"""How learning rate, weight decay, momentum and temperatures move over a run, as plain numbers.

What they start from, end at and how long they take is the recipe's to say (`recipes.py`). All move
by the step, and end at the run's last one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from headsearch.config.recipes import SHORT, Recipe


@dataclass(frozen=True)
class StepPosition:
    """Where in a run a step stands: step 0 … steps − 1."""

    step: int
    steps: int

    @property
    def progress(self) -> float:
        """From 0 at the first step to 1 at the last."""
        return self.step / max(1, self.steps - 1)


def cosine(start: float, end: float, progress: float) -> float:
    """From `start` at progress 0 to `end` at progress 1 along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def learning_rate(position: StepPosition, peak: float, recipe: Recipe = SHORT) -> float:
    """Linear warm-up over the recipe's share of the steps, then a cosine down to its floor."""
    warm_steps = recipe.warm_up * position.steps
    if position.step < warm_steps:
        return peak * (position.step + 1) / (math.floor(warm_steps) + 1)
    rest = max(1.0, position.steps - 1 - warm_steps)
    return cosine(peak, min(peak, recipe.lr_floor), (position.step - warm_steps) / rest)


def weight_decay(position: StepPosition, start: float, recipe: Recipe = SHORT) -> float:
    """A cosine from `start` to where the recipe ends, or constant where it says nothing."""
    if recipe.weight_decay_end is None:
        return start
    return cosine(start, recipe.weight_decay_end, position.progress)


def teacher_momentum(position: StepPosition, recipe: Recipe = SHORT) -> float:
    """EMA momentum: a cosine from m₀ to 1; m₀ is the recipe's, less where it asks for turnovers.

    Then (1 − m₀) · steps ≥ turnovers.
    """
    start = min(recipe.momentum, max(0.0, 1 - recipe.turnovers / position.steps))
    return cosine(start, 1.0, position.progress)


def warm_up(start: float, end: float, progress: float, share: float) -> float:
    """Linear from `start` to `end` over the first `share` of the run, then constant."""
    return start + (end - start) * min(1.0, progress / share)
