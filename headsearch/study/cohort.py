"""A cohort in training: heads on one shared base, once under each seed.

In a job of several processes, what the first process does to its cohort is broadcast to the others
(`commands.py`), which do the same to theirs (`followers.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor

from headsearch import torchrun
from headsearch.data.loader import Loader
from headsearch.study.commands import Attach, Leave, Load, SetUp
from headsearch.study.leaderboard import Entry
from headsearch.training.distributed import broadcast_object, broadcast_tensors
from headsearch.training.head_timing import head_step_ms
from headsearch.training.setup import TrainingSetup, attach
from headsearch.training.trainer import Trainer


@dataclass(frozen=True)
class Replica:
    """A cohort's training under one seed."""

    setup: TrainingSetup
    trainer: Trainer
    loader: Loader

    @property
    def seed(self) -> int:
        return self.setup.config.seed


@dataclass
class Cohort:
    """The heads that train together, and how far they are.

    Attributes:
        index: its number, from 0.
        rung: the next one to be scored.
        steps: done under each seed.
        replicas: one a seed; none before `set_up`.
        live: its heads that still train, by name.
        base_losses: the base's mean loss since the last read, under each seed.
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
        """Builds the networks before their first step: the base that the seed decides, and heads.

        Args:
            lr: the peak learning rate.
        """
        broadcast_object(SetUp(tuple(self.steps), lr))
        for seed in self.steps:
            under = setup.under(seed, lr=lr)
            trainer = under.new_trainer(under.config.coupling)
            self.replicas.append(Replica(under, trainer, under.new_loader()))
        for entry in entries:
            self.attach(entry)
        if torchrun.count() > 1 and torchrun.first():
            # The first weights may differ between machines, and a user's module has no seed.
            self.load_state(self.state())

    def attach(self, entry: Entry) -> None:
        """Attaches a head under every seed; the first time, a step of it on its own is timed."""
        broadcast_object(Attach(entry.candidate.trial_params))
        setup, candidate = self.replicas[0].setup, entry.candidate
        for replica in self.replicas:
            attach(replica.trainer, setup, candidate)
        if math.isnan(entry.step_ms) and torchrun.first():
            dim, grid = setup.plan.stages[candidate.feature_index]
            features = torch.zeros(2 * setup.config.batch_size, dim, *grid, device=setup.device)
            entry.step_ms = head_step_ms(
                lambda: candidate.build(dim, grid), features, autocast=setup.autocast
            )
        self.live[candidate.name] = entry

    def leave(self, name: str, state: str, reason: str) -> None:
        """Ends a head's training: detaches it from the networks and notes how it ended."""
        broadcast_object(Leave(name))
        entry = self.live.pop(name)
        for replica in self.replicas:
            replica.trainer.detach(name)
        entry.end(state, reason)

    def under(self, seed: int) -> Replica:
        """The replica of a seed."""
        return next(replica for replica in self.replicas if replica.seed == seed)

    def state(self) -> dict[str, Tensor]:
        """All tensors that training updates, under each seed."""
        return {
            f"{replica.seed}.{name}": tensor
            for replica in self.replicas
            for name, tensor in replica.trainer.state().items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Loads a `state` that was taken with the heads that are attached here.

        In a job of several processes all load the first one's.
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
