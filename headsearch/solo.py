"""A solo run: pretraining the base with one head, or with none. The ground truth of a search.

Base, first weights, images and their order are those of a search with the same settings, and so
are the first weights of the head. The coupling is always joint: a head that only watches would
leave the base as it is without one.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeAlias

from headsearch.bases import Base
from headsearch.errors import UserError
from headsearch.ground import Ground
from headsearch.pace import Pace
from headsearch.scores.rung import BASE, RungScores
from headsearch.space import Candidate
from headsearch.train import Health, Trainer, train


@dataclass(frozen=True)
class SoloAdvanced:
    """Some steps were done, with this mean loss of the base."""

    step: int
    loss: float
    pace: Pace


@dataclass(frozen=True)
class SoloScored:
    """A rung was scored; of the rungs 0 … R, the last one holds the final scores.

    Attributes:
        loss: the base's mean loss in the last steps before the rung; NaN at rung 0.
        scores: of the base, and of the head under its name.
        base: what was scored, the teacher's base; training goes on to move it.
    """

    rung: int
    step: int
    loss: float
    scores: RungScores
    base: Base
    pace: Pace


SoloEvent: TypeAlias = SoloAdvanced | SoloScored


def train_solo(
    ground: Ground, candidate: Candidate | None
) -> Generator[SoloEvent, None, SoloScored]:
    """Pretrains the base with this head, or alone, and yields what happens.

    Returns:
        The last rung, which is also the last thing that it yields.

    Raises:
        UserError: base or head diverged.
    """
    config = ground.config
    trainer = ground.new_trainer("joint")
    if candidate is not None:
        attach(trainer, ground, candidate)
    pace = Pace(config.batch_size, ground.steps, config.rungs, cohorts=1)
    loss = math.nan
    scored: SoloScored | None = None
    for rung in range(config.rungs + 1):
        first, last = ground.rung_step(rung - 1), ground.rung_step(rung)
        pace.start()
        for progress in train(trainer, ground.data.train, config, first, last):
            pace.trained(progress.step - first)
            first = progress.step
            assert progress.health is not None  # a solo run is not told to stop
            check_health(progress.health, config.lr)
            loss = progress.health.owners[BASE].loss
            yield SoloAdvanced(progress.step, loss, pace)
            pace.start()
        scores = ground.scores(trainer.teacher.network)
        pace.scored()
        scored = SoloScored(rung, last, loss, scores, trainer.teacher.network.base, pace)
        yield scored
    assert scored is not None
    return scored


def attach(trainer: Trainer, ground: Ground, candidate: Candidate) -> None:
    """Attaches a candidate's head, with the first weights that it has in any cohort."""
    dim, grid = ground.plan.stages[candidate.place]
    trainer.attach(candidate.name, lambda: candidate.build(dim, grid), dim, place=candidate.place)


def check_health(health: Health, lr: float) -> None:
    """Raises UserError where a loss or gradient was not finite: no such step changes a weight."""
    diverged = [owner for owner, state in health.owners.items() if not state.finite]
    if diverged or not health.base_sound:
        heads = [owner for owner in diverged if owner != BASE]
        who = f"the head {heads[0]}" if heads and health.base_sound else "the base"
        raise UserError(
            f"{who} diverged: its loss or gradient is not finite; try a lower --lr than {lr:g}"
        )
