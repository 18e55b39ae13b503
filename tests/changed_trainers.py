"""Searches whose trainers are changed as they are made: broken weights, counted steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from headsearch.ground import Ground
from headsearch.train import Trainer


def on_new_trainers(patch: pytest.MonkeyPatch, change: Callable[[Trainer, int], None]) -> None:
    """Lets `change` have each trainer that is made from here on, and its seed."""
    made = Ground.new_trainer

    def changed(ground: Ground, *arguments: Any) -> Trainer:
        trainer = made(ground, *arguments)
        change(trainer, ground.config.seed)
        return trainer

    patch.setattr(Ground, "new_trainer", changed)


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
