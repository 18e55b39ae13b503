"""The training step: update, clipping, teacher, health. Objectives have tests of their own."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_training import backward, crops, make_trainer

from headsearch.config import Coupling
from headsearch.schedules import Moment, learning_rate, teacher_momentum


def test_a_step_updates_as_plain_adamw_with_clipped_gradients_and_moves_the_teacher() -> None:
    trainer, moment = make_trainer(["attention"]), Moment(4, 40)
    expected = make_trainer(["attention"])
    gradients = backward(expected, crops(), moment)
    lr = learning_rate(moment, 1e-2)
    trainer.step(crops(), moment)
    momentum = teacher_momentum(moment)
    before = dict(expected.student.named_parameters())
    for name, parameter in trainer.student.named_parameters():
        old = before[name].detach()
        if name not in gradients:
            assert torch.equal(parameter, old)
            continue
        g = gradients[name] * min(1.0, 0.3 / (float(gradients[name].norm()) + 1e-6))
        decay = 0.05 if old.ndim > 1 else 0.0
        new = old * (1 - lr * decay) - lr * g / (
            g.abs() + 1e-8
        )  # Adam's first step, bias-corrected
        torch.testing.assert_close(parameter.detach(), new, rtol=1e-4, atol=1e-6, msg=name)
        teacher = dict(trainer.teacher.network.named_parameters())[name]
        torch.testing.assert_close(
            teacher, momentum * old + (1 - momentum) * parameter.detach(), rtol=1e-6, atol=1e-9
        )


@pytest.mark.parametrize("coupling", ["joint", "observe"])
def test_a_head_that_is_not_finite_is_named_and_its_step_changes_no_weight(
    coupling: Coupling,
) -> None:
    trainer = make_trainer(["attention", "mixer"], coupling, dtype=torch.float32)
    trainer.step(crops(dtype=torch.float32), Moment(0, 10))
    trainer.read()
    next(trainer.student.heads["mixer"].head.parameters()).data.fill_(math.nan)
    before = [p.detach().clone() for p in trainer.student.parameters()]
    trainer.step(crops(1, dtype=torch.float32), Moment(1, 10))
    health = trainer.read()
    assert not health.owners["mixer"].finite
    assert health.owners["attention"].finite
    assert health.base_sound
    for old, new in zip(before, trainer.student.parameters(), strict=True):
        assert torch.equal(old, new) or bool(old.isnan().any())
    trainer.detach("mixer")
    trainer.step(crops(2, dtype=torch.float32), Moment(2, 10))
    assert all(owner.finite for owner in trainer.read().owners.values())
    assert all(bool(p.isfinite().all()) for p in trainer.student.parameters())


@pytest.mark.parametrize("objective", ["ibot", "simclr", "byol"])
def test_a_trainer_goes_on_from_a_state_with_the_same_bits(objective: str) -> None:
    """Heads that left before are not in it; those left go on as if nothing had happened."""
    heads = ["attention", "mixer", "poolformer"]
    first = make_trainer(heads, objective=objective, dtype=torch.float32)
    for step in range(3):
        first.step(crops(step, dtype=torch.float32), Moment(step, 6))
    first.detach("mixer")
    first.read()
    state = {name: tensor.clone() for name, tensor in first.state().items()}
    second = make_trainer(["attention", "poolformer"], objective=objective, dtype=torch.float32)
    second.load_state(state)
    for step in range(3, 6):
        for trainer in (first, second):
            trainer.step(crops(step, dtype=torch.float32), Moment(step, 6))
    assert first.read() == second.read()
    expected, found = first.state(), second.state()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


def test_the_state_of_one_head_is_that_and_the_bases() -> None:
    trainer = make_trainer(["attention", "mixer"], dtype=torch.float32)
    trainer.step(crops(dtype=torch.float32), Moment(0, 4))
    alone = make_trainer(["mixer"], dtype=torch.float32)
    alone.step(crops(dtype=torch.float32), Moment(0, 4))
    state = trainer.state(["mixer"])
    assert state.keys() == alone.state().keys()
    alone.load_state(state)
    assert all(torch.equal(tensor, alone.state()[name]) for name, tensor in state.items())
    with pytest.raises(RuntimeError, match="Unexpected key"):
        alone.load_state(trainer.state())
