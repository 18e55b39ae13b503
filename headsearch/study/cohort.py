"""A cohort in training: its heads on one shared base, once under each seed.

What is done to the first process's is told to the others of its job.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor, nn

from headsearch import torchrun
from headsearch.study.commands import Attach, Leave, Load, SetUp
from headsearch.study.leaderboard import Entry
from headsearch.training.distributed import broadcast_object, broadcast_tensors
from headsearch.training.head_timing import head_step_ms
from headsearch.training.setup import TrainingSetup
from headsearch.training.trainer import Trainer


@dataclass(frozen=True)
class Replica:
    """A cohort's training under one seed."""

    setup: TrainingSetup
    trainer: Trainer

    @property
    def seed(self) -> int:
        return self.setup.config.seed


@dataclass
class Cohort:
    """The heads that train together, and how far they are.

    Attributes:
        index: its number, from 0.
        rung: the one that it trains toward; it has been scored at all before.
        steps: done under each seed.
        replicas: one a seed, once there is a base.
        live: its heads that still train, by name.
        base_losses: the base's under each seed, of late.
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
        """Makes the networks before their first step: a base that the seed decides, and heads.

        Args:
            lr: the peak learning rate.
        """
        broadcast_object(SetUp(tuple(self.steps), lr))
        for seed in self.steps:
            under = setup.under(seed)
            trainer = under.new_trainer(under.config.coupling)
            trainer.peak_lr = lr
            self.replicas.append(Replica(under, trainer))
        for entry in entries:
            self.attach(entry)
        if torchrun.count() > 1 and torchrun.first():
            # A seed may come to other bits on another machine, and a module of one's own has none.
            self.load_state(self.state())

    def attach(self, entry: Entry) -> None:
        """Attaches a head under every seed; the first time, a step of it on its own is timed."""
        broadcast_object(Attach(entry.candidate.trial_params))
        setup, candidate = self.replicas[0].setup, entry.candidate
        dim, grid = setup.plan.stages[candidate.feature_index]

        def build() -> nn.Module:
            return candidate.build(dim, grid)

        for replica in self.replicas:
            replica.trainer.attach(candidate.name, build, dim, candidate.feature_index)
        if math.isnan(entry.step_ms) and torchrun.first():
            features = torch.zeros(2 * setup.config.batch_size, dim, *grid, device=setup.device)
            entry.step_ms = head_step_ms(build, features, autocast=setup.autocast)
        self.live[candidate.name] = entry

    def leave(self, name: str, state: str, reason: str) -> None:
        """Ends a head's training: in the networks and in its row."""
        broadcast_object(Leave(name))
        entry = self.live.pop(name)
        for replica in self.replicas:
            replica.trainer.detach(name)
        entry.state, entry.reason = state, reason

    def under(self, seed: int) -> Replica:
        """The training under a seed."""
        return next(replica for replica in self.replicas if replica.seed == seed)

    def state(self) -> dict[str, Tensor]:
        """All that moves, under each seed."""
        return {
            f"{replica.seed}.{name}": tensor
            for replica in self.replicas
            for name, tensor in replica.trainer.state().items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from a `state`, taken with the heads that are attached here.

        Of several ranks all go on from the first one's.
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
