"""A compiled base: the same training, to rounding, whoever comes and goes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from headsearch.config.settings import resolve
from headsearch.errors import UserError
from headsearch.training.schedules import StepPosition
from headsearch.training.setup import prepare_training
from headsearch.training.trainer import Trainer
from helpers.tiny_training import crops, make_trainer

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
STEPS = 4


def trained(*, compiled: bool, **settings: Any) -> Trainer:
    """A head leaves and another comes on the way."""
    trainer = make_trainer(["convnext", "mixer"], compile=compiled, **settings)
    for step in range(STEPS):
        trainer.step(crops(step), StepPosition(step, 2 * STEPS))
        if step == 1:
            trainer.detach("convnext")
    return trainer


@pytest.mark.parametrize("coupling", ["joint", "observe"])
@pytest.mark.parametrize("objective", ["simclr", "dino"])
def test_a_compiled_base_trains_as_the_plain_one_does(coupling: Any, objective: str) -> None:
    """To rounding, in float64: a fused kernel adds in another order, and Adam magnifies that."""
    plain = trained(compiled=False, coupling=coupling, objective=objective)
    compiled = trained(compiled=True, coupling=coupling, objective=objective)
    for network in (compiled.student, compiled.teacher.network):
        blocks: Any = network.base.trunk.blocks
        assert all(block._compiled_call_impl is not None for block in blocks)
    assert compiled.state().keys() == plain.state().keys()
    untrained = make_trainer(["mixer"], coupling=coupling, objective=objective)
    found, expected, before = map(features, (compiled, plain, untrained))
    for one, other, old in zip(found, expected, before, strict=True):
        assert (one - other).norm() < 1e-6 * (other - old).norm()


@torch.no_grad()
def features(trainer: Trainer) -> tuple[torch.Tensor, torch.Tensor]:
    """Of base and head on other images than those of the training."""
    seen = trainer.student.eval()(crops(9).flatten(0, 1))
    return seen.base.pooled_BD, seen.pooled_BD("mixer")


def test_without_a_compiler_that_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-such-compiler"))
    settings = {"base": "test_vit", "images": 64, "compile": True, "device": "cpu"}
    with pytest.raises(UserError, match="--compile needs a C"):
        prepare_training(resolve(settings))
