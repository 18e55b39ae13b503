"""The training loop between two reads of losses, which a search and a solo run both go through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from headsearch.data.loader import Loader
from headsearch.training import distributed
from headsearch.training.meters import StepStats
from headsearch.training.schedules import StepPosition
from headsearch.training.trainer import Trainer

READ_EVERY = 10
"""Steps between two reads of losses from the device: a read waits for the device, a step does
not."""


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes:
        step: the next step to take. It is earlier than expected where a step was not finite: the
            steps from there on changed nothing, and are to be taken again.
        stats: losses and health since the last read; None where training was stopped before one.
    """

    step: int
    stats: StepStats | None


def window_from(step: int, last: int) -> range:
    """The steps from `step` to the next read, at most up to `last` (exclusive).

    Reads come at multiples of `READ_EVERY`, wherever a run was interrupted.
    """
    return range(step, min(last, (step // READ_EVERY + 1) * READ_EVERY))


def train_window(
    trainer: Trainer, loader: Loader, window: range, stop: Callable[[], bool] = lambda: False
) -> Progress:
    """Takes the steps of a window, then reads losses and health: the one time the host waits.

    The caller then detaches the heads that the stats blame, before it goes on.

    Args:
        stop: once it says so, in any process of a job, the step under way is the last.
    """
    counted = window.start - trainer.unread  # an interrupted window left steps unread
    for step in window:
        trainer.step(loader.crops(step), StepPosition(step, loader.steps))
        if distributed.any_process(stop()) and step + 1 < window.stop:
            return Progress(step + 1, None)
    stats = trainer.read()
    return Progress(counted + stats.steps, stats)
