"""A solo run: pretrains the base with one head or none; such runs check a search's ranking.

The base, its first weights, the images and their order, and the head's first weights are those of a
search with the same settings. The coupling is always joint: with `observe`, the base would train as
it does without a head.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from headsearch import torchrun
from headsearch.errors import UserError
from headsearch.evaluation.rung import ScoringProgress
from headsearch.evaluation.scores import RungScores
from headsearch.models.bases import Base
from headsearch.models.network import BASE, AttachedHead
from headsearch.models.space import Candidate
from headsearch.runs.snapshot import Snapshot
from headsearch.runs.throughput import Throughput
from headsearch.training import distributed
from headsearch.training.loop import train_window, window_from
from headsearch.training.meters import StepStats
from headsearch.training.setup import TrainingSetup, attach


class SoloDivergedError(UserError):
    """The base or the head diverged: a loss or gradient is not finite."""


@dataclass(frozen=True)
class SoloAdvanced:
    """Some training steps were taken.

    Attributes:
        step: the number of steps taken so far.
        loss: the base's mean loss since the last read; NaN before the first read.
        head_losses: the head's mean loss by its name; empty without a head.
        read: whether losses were read at this step. False if training stops before a read.
        throughput: speed and remaining time.
    """

    step: int
    loss: float
    head_losses: Mapping[str, float]
    read: bool
    throughput: Throughput


@dataclass(frozen=True)
class SoloScored:
    """A rung was scored. Of the rungs 0 … R, the last one holds the final scores.

    Attributes:
        rung: the rung.
        step: the number of steps taken so far.
        loss: the base's mean loss in the last steps before the rung; NaN at rung 0.
        scores: the scores of the base, and of the head under its name.
        base: the teacher's base, which was scored. Later steps change it in place.
        throughput: speed and remaining time.
        head: the teacher's head, likewise; None without a head.
    """

    rung: int
    step: int
    loss: float
    scores: RungScores
    base: Base
    throughput: Throughput
    head: AttachedHead | None = None


@dataclass(frozen=True)
class SoloScoring:
    """A rung is being scored. Not an event: nothing has changed yet.

    Attributes:
        rung: the rung.
        progress: how much of it is scored.
    """

    rung: int
    progress: ScoringProgress


SoloEvent: TypeAlias = SoloAdvanced | SoloScored


class SoloRun:
    """A solo run, from its first step or from a snapshot. Writes nothing.

    Args:
        setup: base, data, objective and settings.
        candidate: the head; None for the base alone.

    Attributes:
        rung: the next rung to score.
        step: the number of steps taken so far.
        loss: the base's mean loss since the last read; NaN before the first read.
        stop: set it to stop after the current step.
        on_scoring: called many times while a rung is scored; a display sets it.
    """

    def __init__(self, setup: TrainingSetup, candidate: Candidate | None) -> None:
        self._setup = setup
        self._trainer = setup.new_trainer("joint")
        if candidate is not None:
            attach(self._trainer, setup, candidate)
        self._loader = setup.new_loader()
        config = setup.config
        self._throughput = Throughput(setup.batch, setup.steps, config.rungs, cohorts=1)
        self.rung, self.step, self.loss = 0, 0, math.nan
        self._head_losses: dict[str, float] = {}
        self.stop = threading.Event()
        self.on_scoring: Callable[[SoloScoring], object] = lambda _: None

    def run(self, observe: Callable[[SoloEvent], None] = lambda event: None) -> None:
        """Trains to the end, or until `stop` is set.

        All processes of a job call it, and start from the state of the first one.

        Args:
            observe: called with every event. The last event is the last rung.

        Raises:
            SoloDivergedError: base or head diverged.
        """
        setup, config = self._setup, self._setup.config
        trainer, throughput = self._trainer, self._throughput
        if torchrun.count() > 1:
            trainer.load_state(distributed.broadcast_tensors(trainer.state(), setup.device))
            self.rung, self.step, self.loss = distributed.agree_on_first(
                (self.rung, self.step, self.loss)
            )
        while self.rung <= config.rungs:
            last = setup.rung_step(self.rung)
            throughput.start()
            while self.step < last and not self._to_stop():
                window = window_from(self.step, last)
                progress = train_window(trainer, self._loader, window, self.stop.is_set)
                throughput.trained(progress.step - self.step, self._loader.take_waited_s())
                self.step = progress.step
                if progress.stats is not None:
                    check_stats(progress.stats, config.peak_lr)
                    losses = {name: stats.loss for name, stats in progress.stats.owners.items()}
                    self.loss, self._head_losses = losses.pop(BASE), losses
                read = progress.stats is not None
                observe(SoloAdvanced(self.step, self.loss, self._head_losses, read, throughput))
                throughput.start()
            if self._to_stop():
                return
            trainer.drop_graph()  # scoring needs memory
            network = trainer.teacher.network
            scores = setup.scores(network, self._note_scoring)
            throughput.scored()
            self.rung += 1
            head = next(iter(network.heads.values()), None)
            observe(
                SoloScored(self.rung - 1, last, self.loss, scores, network.base, throughput, head)
            )

    def _note_scoring(self, progress: ScoringProgress) -> None:
        self.on_scoring(SoloScoring(self.rung, progress))

    def _to_stop(self) -> bool:
        """Whether to stop, because this or any other process of the job was asked to."""
        if distributed.any_process(self.stop.is_set()):
            self.stop.set()
        return self.stop.is_set()

    def snapshot(self) -> Snapshot:
        """Everything that another process needs to resume from here."""
        record = {"rung": self.rung, "step": self.step, "loss": self.loss}
        return Snapshot(self._trainer.state(), {**record, "pace": self._throughput.record_of()})

    def restore(self, left: Snapshot) -> None:
        """Restores the state of a run from its snapshot."""
        self._trainer.load_state(left.tensors)
        self._throughput.restore(left.record["pace"])
        self.rung, self.step = left.record["rung"], left.record["step"]
        self.loss = left.record["loss"]


def check_stats(stats: StepStats, lr: float) -> None:
    """Raises SoloDivergedError if a loss or gradient was not finite.

    The trainer lets no such step change a weight.

    Args:
        stats: losses and flags since the last read.
        lr: the learning rate, for the error message.
    """
    diverged = [owner for owner, state in stats.owners.items() if not state.finite]
    if diverged or not stats.base_sound:
        heads = [owner for owner in diverged if owner != BASE]
        who = f"the head {heads[0]}" if heads and stats.base_sound else "the base"
        raise SoloDivergedError(
            f"{who} diverged: its loss or gradient is not finite; try a lower --lr than {lr:g}"
        )
