"""Absorption: compared with a real look-ahead step, and without a trace in the training."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from headsearch.config.settings import resolve
from headsearch.data.loader import Loader
from headsearch.pretraining.head_selection import head_on
from headsearch.training.absorption import absorption, affordable_batches
from headsearch.training.loop import train_window
from headsearch.training.objectives import OBJECTIVES
from headsearch.training.schedules import StepPosition
from headsearch.training.setup import TrainingSetup, attach, prepare_training
from headsearch.training.trainer import Trainer

HEADS = ("identity", "mixer-d1", "attention-d1")
STEP = 1e-2  # of the look-ahead


def trained(objective: str, **changes: Any) -> tuple[TrainingSetup, Trainer]:
    """A trainer after ten steps, with heads that observe."""
    settings: dict[str, Any] = {
        "base": "test_vit", "image_size": 16, "patch_size": 4, "images": 64, "batch_size": 16,
        "eval_images": 64, "bank_images": 32, "device": "cpu", "precision": "float32",
        "objective": objective, "epochs": 4,
    }  # fmt: skip
    setup = prepare_training(resolve({**settings, **changes}))
    trainer = setup.new_trainer("observe")
    for name in HEADS:
        attach(trainer, setup, head_on(setup.plan, name).candidate)
    train_window(trainer, setup.new_loader(), range(10))
    return setup, trainer


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_it_is_measured_for_every_objective_and_changes_nothing(objective: str) -> None:
    setup, trainer = trained(objective)
    before = {name: tensor.clone() for name, tensor in trainer.state().items()}
    found = absorption(trainer, setup, 10, 1)
    assert set(found) == set(HEADS)
    assert all(-1 <= value <= 1 and value != 0 for value in found.values())
    after = trainer.state()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in trainer.student.parameters())
    assert found == absorption(trainer, setup, 10, 1)


def test_a_look_ahead_step_changes_the_own_loss_as_absorption_says() -> None:
    """TAG's own way: a small step on a head's loss, and the base's loss on other images after.

    With dino the base predicts a head's target with modules of its own, so nothing is fitted.
    """
    setup, trainer = trained("dino")
    found = absorption(trainer, setup, 10, 1)
    objective, base = trainer.objective, trainer.student.base
    parameters = list(base.parameters())
    start = [parameter.detach().clone() for parameter in parameters]
    # The crops that `absorption` takes: those of the evaluation images, first O, then A.
    config = setup.config.model_copy(update={"epochs": 2})
    loader = Loader(setup.data.queries, config, trainer.device)
    others, images = (loader.crops(step).flatten(0, 1) for step in (0, 1))
    begun = {name: buffer.clone() for name, buffer in trainer.student.named_buffers()}

    def outputs(crops: torch.Tensor, buffers: dict[str, torch.Tensor]) -> Any:
        with torch.no_grad():
            for name, buffer in trainer.student.named_buffers():
                buffer.copy_(buffers[name])
        return trainer.outputs(crops, StepPosition(10, setup.steps))

    def own_loss() -> torch.Tensor:
        found = outputs(others, begun)
        return objective.own_loss_of_base(found, objective.embedding_of_base(found))

    def norm(gradients: Any) -> torch.Tensor:
        return torch.cat([g.flatten() for g in gradients if g is not None]).norm()

    own_norm = norm(torch.autograd.grad(own_loss(), parameters, allow_unused=True))
    # `own_loss` has left the centre moved by the targets of O, as it is when A is measured.
    moved = {name: buffer.clone() for name, buffer in trainer.student.named_buffers()}
    for name in HEADS:
        seen = outputs(images, moved)
        loss = objective.loss_toward_head(seen, name, objective.embedding_of_base(seen))
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        length, losses = norm(gradients), []
        for side in (1, -1):
            with torch.no_grad():
                for parameter, value, gradient in zip(parameters, start, gradients, strict=True):
                    step = 0 if gradient is None else gradient / length
                    parameter.copy_(value - side * STEP * step)
                losses.append(float(own_loss()))
        with torch.no_grad():
            for parameter, value in zip(parameters, start, strict=True):
                parameter.copy_(value)
        fall = (losses[1] - losses[0]) / (2 * STEP)
        assert fall / float(own_norm) == pytest.approx(found[name], abs=0.02)


def test_every_head_sees_all_images_even_where_heads_share_those_of_a_step() -> None:
    setup, trainer = trained("simclr", images_per_head="share")
    found = absorption(trainer, setup, 10, 1)
    trainer.images_per_head = "all"
    assert found == absorption(trainer, setup, 10, 1)


def test_it_takes_at_most_a_share_of_the_steps() -> None:
    setup, _ = trained("simclr")
    assert affordable_batches(setup, 3) == 0
    long = trained("simclr", epochs=60)[0]
    assert long.steps == 240
    assert affordable_batches(long, 3) == 1
    assert affordable_batches(long, 14) == 0
    assert affordable_batches(trained("simclr", epochs=400)[0], 14) == 2
