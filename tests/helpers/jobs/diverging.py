"""headsearch in a job whose base diverges after three steps, whatever the learning rate."""

from __future__ import annotations

import math

from torch import Tensor

from headsearch import cli
from headsearch.training.schedules import StepPosition
from headsearch.training.trainer import Trainer

before = Trainer.step


def diverging(trainer: Trainer, crops: Tensor, position: StepPosition) -> None:
    if position.step == 3:
        for parameter in trainer.student.base.parameters():
            parameter.data.fill_(math.nan)
    before(trainer, crops, position)


Trainer.step = diverging  # type: ignore[method-assign]
cli.main()
