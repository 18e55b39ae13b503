"""A cohort: heads that train together on one shared base, once for each seed.

In a job of several processes, the first process broadcasts what it does to its cohort as commands
(`job_commands.py`). The other processes do the same to their copies (`followers.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean

import torch
from torch import Tensor

from headsearch import torchrun
from headsearch.data.loader import Loader
from headsearch.evaluation.expected_gains import with_expected_gains
from headsearch.evaluation.rung import OnScoring, ScoringProgress
from headsearch.evaluation.scores import RungScores
from headsearch.models.network import HeadFailedError, failing_as
from headsearch.runs.rank_by import ABSORPTION, weights_of
from headsearch.study.job_commands import Absorb, Attach, Leave, Load, Score, SetUp
from headsearch.study.leaderboard import Entry
from headsearch.training.absorption import RUNGS, absorption, affordable_batches
from headsearch.training.distributed import broadcast_object, broadcast_tensors
from headsearch.training.head_timing import head_step_ms
from headsearch.training.loop import Progress, train_window
from headsearch.training.setup import TrainingSetup, attach
from headsearch.training.trainer import Trainer


@dataclass(frozen=True)
class Replica:
    """A cohort's training with one seed: its own networks, optimizer and image order."""

    setup: TrainingSetup
    trainer: Trainer
    loader: Loader

    @property
    def seed(self) -> int:
        return self.setup.config.seed


@dataclass
class Cohort:
    """The heads that train together, and their progress.

    Attributes:
        index: the number of the cohort, from 0.
        rung: the next rung to score.
        steps: the number of steps taken, by seed.
        replicas: one for each seed; empty before `set_up`.
        live: the heads that still train, by name.
        base_losses: the base's mean loss since the last read, by seed.
    """

    index: int
    rung: int
    steps: dict[int, int]
    replicas: list[Replica] = field(default_factory=list)
    live: dict[str, Entry] = field(default_factory=dict)
    base_losses: dict[int, float] = field(default_factory=dict)

    @property
    def base_loss(self) -> float:
        """The mean over seeds; NaN before the first step."""
        return fmean(self.base_losses.values()) if self.base_losses else math.nan

    def set_up(self, setup: TrainingSetup, entries: Iterable[Entry], lr: float) -> None:
        """Builds the networks of each seed, with their first weights, and attaches the heads.

        Args:
            setup: what the cohort trains with, whatever its seed and learning rate.
            entries: the heads to attach.
            lr: the peak learning rate.
        """
        broadcast_object(SetUp(tuple(self.steps), lr))
        for seed in self.steps:
            seed_setup = setup.under(seed, lr=lr)
            trainer = seed_setup.new_trainer(seed_setup.config.coupling)
            self.replicas.append(Replica(seed_setup, trainer, seed_setup.new_loader()))
        for entry in entries:
            self.attach(entry)
        if torchrun.count() > 1 and torchrun.first():
            # The same seed may give other first weights on another machine, and a module of the
            # user's own has no seed. Loading the state broadcasts the first process's weights.
            self.load_state(self.state())

    def attach(self, entry: Entry) -> None:
        """Attaches a head for every seed, and times one step of it alone if that is not known.

        A head that cannot train is set aside with the reason.
        """
        broadcast_object(Attach(entry.candidate.trial_params))
        try:
            self._attach(entry)
        except HeadFailedError as error:
            if torchrun.count() > 1:
                raise
            for replica in self.replicas:
                if error.head in replica.trainer.student.heads:
                    replica.trainer.detach(error.head)
            entry.end("failed", error.reason)
        else:
            self.live[entry.candidate.name] = entry

    def _attach(self, entry: Entry) -> None:
        setup, candidate = self.replicas[0].setup, entry.candidate
        for replica in self.replicas:
            attach(replica.trainer, setup, candidate)
        if math.isnan(entry.step_ms) and torchrun.first():
            dim, grid = setup.plan.stages[candidate.feature_index]
            features = torch.zeros(2 * setup.batch, dim, *grid, device=setup.device)
            with failing_as(candidate.name):
                entry.step_ms = head_step_ms(
                    lambda: candidate.build(dim, grid), features, autocast=setup.autocast
                )

    def train(self, replica: Replica, window: range, stop: Callable[[], bool]) -> Progress:
        """Takes the steps of a window with one seed; see `train_window`.

        A head whose code fails is set aside, and training stops before that step.
        """
        before = replica.trainer.unread
        try:
            return train_window(replica.trainer, replica.loader, window, stop)
        except HeadFailedError as error:
            if torchrun.count() > 1:  # the other processes may be in the middle of the step
                raise
            self.leave(error.head, "failed", error.reason)
            return Progress(window.start + replica.trainer.unread - before, None)

    def leave(self, name: str, state: str, reason: str) -> None:
        """Ends a head's training: detaches it from the networks and records how it ended.

        Args:
            name: the candidate.
            state: complete, pruned, collapsed or failed.
            reason: why, in a few words.
        """
        broadcast_object(Leave(name))
        entry = self.live.pop(name)
        for replica in self.replicas:
            replica.trainer.detach(name)
        entry.end(state, reason)

    def scores(
        self, rank_by: str, on_progress: OnScoring = lambda _: None
    ) -> dict[int, RungScores]:
        """The scores of base and heads with each seed, by seed.

        A head whose code fails is set aside, and the others are scored again without it.

        Args:
            rank_by: what candidates are ranked by.
            on_progress: called many times while they are scored; with several seeds, its shares
                are those of all.
        """
        while True:
            try:
                return self._scores(rank_by, on_progress)
            except HeadFailedError as error:
                if torchrun.count() > 1:
                    raise
                self.leave(error.head, "failed", error.reason)

    def _scores(self, rank_by: str, on_progress: OnScoring) -> dict[int, RungScores]:
        families = {name: entry.candidate.family for name, entry in self.live.items()}
        by_seed: dict[int, RungScores] = {}
        for replica in self.replicas:

            def on_seed(progress: ScoringProgress, before: int = len(by_seed)) -> None:
                share = (before + progress.share) / len(self.replicas)
                on_progress(replace(progress, share=share))

            broadcast_object(Score(replica.seed))
            scores = replica.setup.scores(replica.trainer.teacher.network, on_seed)
            scores = with_expected_gains(scores, families)
            for name, value in self._absorption(replica, rank_by).items():
                scores.heads[name] = scores.heads[name].with_further(absorption=value)
            by_seed[replica.seed] = scores
        return by_seed

    def _absorption(self, replica: Replica, rank_by: str) -> dict[str, float]:
        """The absorption of each head at this rung; empty if it is not measured here."""
        if replica.setup.config.coupling != "observe" or not self.live:
            return {}
        batches = affordable_batches(replica.setup, len(self.live))
        if ABSORPTION in weights_of(rank_by):
            batches = max(1, batches)
        elif self.rung not in RUNGS or not batches:
            return {}
        step = self.steps[replica.seed]
        broadcast_object(Absorb(replica.seed, step, batches))
        return absorption(replica.trainer, replica.setup, step, batches)

    def under(self, seed: int) -> Replica:
        """The replica of a seed."""
        return next(replica for replica in self.replicas if replica.seed == seed)

    def state(self) -> dict[str, Tensor]:
        """All tensors that training updates, for all seeds; each name begins with the seed."""
        return {
            f"{replica.seed}.{name}": tensor
            for replica in self.replicas
            for name, tensor in replica.trainer.state().items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Loads a `state` that was taken with the same heads attached.

        In a job of several processes, all processes load the state of the first one.
        """
        broadcast_object(Load())
        state = broadcast_tensors(state, self.replicas[0].setup.device)
        for replica in self.replicas:
            prefix = f"{replica.seed}."
            replica.trainer.load_state(
                {
                    name.removeprefix(prefix): tensor
                    for name, tensor in state.items()
                    if name.startswith(prefix)
                }
            )
