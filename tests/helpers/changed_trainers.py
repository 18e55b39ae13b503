"""Searches whose trainers are changed as they are made: broken weights, counted steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from headsearch.training.setup import TrainingSetup
from headsearch.training.trainer import Trainer


def on_new_trainers(patch: pytest.MonkeyPatch, change: Callable[[Trainer, int], None]) -> None:
    """Lets `change` have each trainer that is made from here on, and its seed."""
    made = TrainingSetup.new_trainer

    def changed(setup: TrainingSetup, *arguments: Any) -> Trainer:
        trainer = made(setup, *arguments)
        change(trainer, setup.config.seed)
        return trainer

    patch.setattr(TrainingSetup, "new_trainer", changed)


def with_a_broken_head(name: str, under: int | None = None) -> Callable[[Trainer, int], None]:
    """A head whose first weight is NaN, under one seed or all."""

    def change(trainer: Trainer, seed: int) -> None:
        attach = trainer.attach

        def attach_broken(attached: str, *arguments: Any) -> None:
            attach(attached, *arguments)
            if attached == name and under in (None, seed):
                next(trainer.student.heads[name].parameters()).data.fill_(float("nan"))

        trainer.attach = attach_broken  # type: ignore[method-assign]

    return change


def with_an_infinite_base(trainer: Trainer, seed: int) -> None:
    """A base whose features are not finite from the first step on."""
    trunk: Any = trainer.student.base.trunk
    trunk.norm.weight.data.fill_(float("inf"))


def with_a_base_that_diverges(
    at: int, above: float, *, under: int | None = None, after: str | None = None
) -> Callable[[Trainer, int], None]:
    """A base whose features are not finite from a step on, if the learning rate is above this.

    Args:
        under: the seed under which it does; by default all.
        after: a head that is not finite from the step before on.
    """

    def change(trainer: Trainer, seed: int) -> None:
        step = trainer.step

        def one(crops: Any, position: Any, *local: Any) -> None:
            if trainer.peak_lr > above and under in (None, seed):
                if position.step >= at - 1 and after in trainer.student.heads:
                    next(trainer.student.heads[after].parameters()).data.fill_(float("nan"))
                if position.step >= at:
                    with_an_infinite_base(trainer, seed)
            step(crops, position, *local)

        trainer.step = one  # type: ignore[method-assign]

    return change


def with_a_brittle_base(bound: float) -> Callable[[Trainer, int], None]:
    """A base whose features are not finite once its last norm has moved so far: by a high --lr."""

    def change(trainer: Trainer, seed: int) -> None:
        trunk: Any = trainer.student.base.trunk
        first = trunk.norm.weight.detach().clone()

        def break_if_moved(norm: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            moved = (norm.weight.detach() - first).abs().max()
            return output * torch.where(moved > bound, torch.inf, 1.0)

        trunk.norm.register_forward_hook(break_if_moved)

    return change


def with_memory_for(heads: int, *, begin: int = 0) -> Callable[[Trainer, int], None]:
    """Steps that more heads than this do not fit into, from a step on."""

    def change(trainer: Trainer, seed: int) -> None:
        step = trainer.step

        def one(crops: Any, position: Any, *local: Any) -> None:
            if position.step >= begin and len(trainer.student.heads) > heads:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
            step(crops, position, *local)

        trainer.step = one  # type: ignore[method-assign]

    return change
