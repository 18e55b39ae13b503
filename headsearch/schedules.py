"""How learning rate, momentum and temperatures move over a run, as plain numbers of the step.

A published schedule counts in epochs of a long pretraining. Here every warm-up is a share of the
run's steps, and the teacher's momentum is low enough that the teacher, which is what gets scored,
can follow the student within the run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

TEACHER_TURNOVERS = 10
"""The least (1 − m₀) · steps: how often over the run the teacher's weights are renewed."""


@dataclass(frozen=True)
class Moment:
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


def learning_rate(moment: Moment, peak: float, warmup: float = 0.1, floor: float = 0.0) -> float:
    """Linear warm-up over the share `warmup` of the steps, then a cosine down to `floor` × peak."""
    warm_steps = warmup * moment.steps
    if moment.step < warm_steps:
        return peak * (moment.step + 1) / (math.floor(warm_steps) + 1)
    rest = max(1.0, moment.steps - 1 - warm_steps)
    return cosine(peak, floor * peak, (moment.step - warm_steps) / rest)


def teacher_momentum(moment: Moment, longest: float = 0.996) -> float:
    """EMA momentum: a cosine from m₀ to 1, with (1 − m₀) · steps ≥ 10 and m₀ ≤ `longest`."""
    start = min(longest, max(0.0, 1 - TEACHER_TURNOVERS / moment.steps))
    return cosine(start, 1.0, moment.progress)


def warm_up(start: float, end: float, progress: float, share: float) -> float:
    """Linear from `start` to `end` over the first `share` of the run, then constant."""
    return start + (end - start) * min(1.0, progress / share)
