"""The training loop: steps between two reads of losses and health, over one or many processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from headsearch.config.settings import RunConfig
from headsearch.data import Images
from headsearch.data.loader import batches, steps_per_epoch
from headsearch.training import distributed
from headsearch.training.meters import StepStats
from headsearch.training.schedules import StepPosition
from headsearch.training.trainer import Trainer

READ_EVERY = 10
"""Steps between two reads of losses and health from the device."""


@dataclass(frozen=True)
class Progress:
    """How far a cohort is: steps done, and how base and heads fared since the last report.


    Attributes:
        step: steps done; fewer than before where some did not count.
        health: None where training stopped between two reads, as it was asked to.
    """

    step: int
    stats: StepStats | None


def train(
    trainer: Trainer,
    images: Images,
    config: RunConfig,
    first: int,
    last: int,
    stop: Callable[[], bool] = lambda: False,
    begin: Callable[[range], None] = lambda window: None,
) -> Iterator[Progress]:
    """Runs the steps `first` … `last` − 1, reading losses and health now and then.

    The caller detaches heads between two reports, at least those that a report blames: what was
    not taken because of them is taken again, without them. Once `stop` says so, the step that is
    under way is the last.

    Args:
        begin: told which steps come next, before each report.
    """
    step, counted = first, first - trainer.unread
    while step < last:
        window = range(step, min(last, (step // READ_EVERY + 1) * READ_EVERY))
        begin(window)
        step = take_steps(trainer, images, config, window, stop)
        if step < window.stop:
            yield Progress(step, None)
            return
        stats = trainer.read()
        step = counted = counted + stats.steps
        yield Progress(step, stats)
        assert not stats.blamed & trainer.student.heads.keys(), "they would be to blame forever"
        if stop():
            return
    trainer.rest()  # scoring comes, and heads may leave


def take_steps(
    trainer: Trainer,
    images: Images,
    config: RunConfig,
    window: range,
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Takes these steps, or those up to where one of the ranks is to stop; says which is next."""
    steps = config.epochs * steps_per_epoch(images, config)
    for step, crops in zip(window, batches(images, config, window, trainer.device), strict=True):
        trainer.step(crops, StepPosition(step, steps))
        if distributed.any_process(stop()):
            return step + 1
    return window.stop
