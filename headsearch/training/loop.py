"""The training loop of searches and solo runs: steps of a window, then one read of the losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from headsearch.data.loader import Loader
from headsearch.training import distributed
from headsearch.training.meters import StepStats
from headsearch.training.schedules import StepPosition
from headsearch.training.trainer import Trainer

READ_EVERY = 10
"""The number of steps between two reads of losses. A read waits for the device, a step does not."""


@dataclass(frozen=True)
class Progress:
    """The progress of training after a window.

    Attributes:
        step: the next step to take. If a step of the window was not finite, it is that step: the
            steps from there on changed nothing and have to be taken again.
        stats: losses and flags since the last read; None if training was stopped before a read.
    """

    step: int
    stats: StepStats | None


def window_from(step: int, last: int) -> range:
    """The steps from `step` to the next read, at most up to `last` (exclusive).

    Reads come at multiples of `READ_EVERY`, so that an interrupted run reads at the same steps as
    an uninterrupted one.
    """
    return range(step, min(last, (step // READ_EVERY + 1) * READ_EVERY))


def train_window(
    trainer: Trainer, loader: Loader, window: range, stop: Callable[[], bool] = lambda: False
) -> Progress:
    """Takes the steps of a window, then reads losses and flags; only the read waits for the device.

    The caller must detach the heads that the stats blame before it continues.

    Args:
        trainer: the trainer.
        loader: gives the crops of each step.
        window: the steps to take.
        stop: asked after every step. If it returns True in any process of a job, all stop.
    """
    counted = window.start - trainer.unread  # an interrupted window left steps unread
    for step in window:
        views = loader.views(step)
        trainer.step(views.crops, StepPosition(step, loader.steps), views.local)
        if distributed.any_process(stop()) and step + 1 < window.stop:
            return Progress(step + 1, None)
    stats = trainer.read()
    return Progress(counted + stats.steps, stats)
