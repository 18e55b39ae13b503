"""The hand-written loop of `benchmarks/peers.py` makes the steps of the trainer."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from headsearch.training.objectives.dino import teacher_temperature
from headsearch.training.schedules import StepPosition, learning_rate, teacher_momentum
from helpers.tiny_training import TINY_VIT, crops, different_teacher, make_trainer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from plain_loops import PlainLoop, Setting, TunedLoop

MOMENT = StepPosition(50, 100)


def small_setting(objective: str) -> Setting:
    return Setting(
        objective,
        hidden=24,
        width=16,
        prototypes=48,
        lr=learning_rate(MOMENT, 1e-2),
        momentum=teacher_momentum(MOMENT),
        temperature=teacher_temperature(MOMENT),
    )


def tiny_vit() -> torch.nn.Module:
    model: torch.nn.Module = timm.create_model(
        TINY_VIT.timm_name, num_classes=0, **TINY_VIT.arguments
    )
    return model.double()


@pytest.mark.parametrize("objective", ["dino", "simclr", "mocov3"])
def test_the_tuned_loop_makes_the_update_of_the_trainer(objective: str) -> None:
    """Weights of student and teacher after three steps, from the same weights and crops."""
    trainer = make_trainer([], objective=objective)
    if trainer.objective.has_teacher:
        different_teacher(trainer)
    loop = TunedLoop(tiny_vit(), small_setting(objective))
    loop.student.double().load(trainer.student)
    loop.criterion.double()
    loop.start()
    if trainer.objective.has_teacher:
        loop.teacher.load(trainer.teacher.network)
    expected: Any = type(loop.student)(tiny_vit(), loop.setting).double()
    for step in range(3):
        trainer.step(crops(step), MOMENT)
        loop.step(crops(step))
        expected.load(trainer.student)
        torch.testing.assert_close(loop.student.state_dict(), expected.state_dict())
        if trainer.objective.has_teacher:
            expected.load(trainer.teacher.network)
            mine, theirs = dict(loop.teacher.named_parameters()), expected.named_parameters()
            for name, weight in theirs:
                torch.testing.assert_close(mine[name].detach(), weight.detach(), msg=name)


@pytest.mark.parametrize("objective", ["dino", "simclr", "mocov3"])
def test_the_plain_loop_has_the_tuned_ones_loss(objective: str) -> None:
    """One view at a time or all at once: batch norms alone see the difference."""
    setting = dataclasses.replace(small_setting(objective), lr=0.0, weight_decay=0.0)
    plain, tuned = PlainLoop(tiny_vit(), setting), TunedLoop(tiny_vit(), setting)
    for loop in (plain, tuned):
        loop.student.double().eval()
        loop.criterion.double()
    plain.teacher.double().eval()
    tuned.student.load_state_dict(plain.student.state_dict())
    tuned.start()
    torch.testing.assert_close(plain.step(crops()), tuned.step(crops()))
