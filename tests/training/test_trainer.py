"""The training step: update, clipping, teacher, health. Objectives have tests of their own."""

from __future__ import annotations

import gc
import math
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headsearch.config.settings import Coupling, resolve
from headsearch.data.image.store import ImagesInMemory
from headsearch.data.loader import Loader, ReadAhead
from headsearch.data.order import epoch_order
from headsearch.errors import UserError
from headsearch.training.cuda_graphs import WARM_UP, CudaGraphStep
from headsearch.training.loop import Progress, train_window, window_from
from headsearch.training.schedules import StepPosition, learning_rate, teacher_momentum
from headsearch.training.trainer import Trainer
from helpers.tiny_training import backward, crops, make_trainer


def test_a_step_updates_as_plain_adamw_with_clipped_gradients_and_moves_the_teacher() -> None:
    trainer, position = make_trainer(["attention"]), StepPosition(4, 40)
    expected = make_trainer(["attention"])
    gradients = backward(expected, crops(), position)
    lr = learning_rate(position, 1e-2)
    trainer.step(crops(), position)
    momentum = teacher_momentum(position)
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
    trainer.step(crops(dtype=torch.float32), StepPosition(0, 10))
    trainer.read()
    next(trainer.student.heads["mixer"].head.parameters()).data.fill_(math.nan)
    before = [p.detach().clone() for p in trainer.student.parameters()]
    trainer.step(crops(1, dtype=torch.float32), StepPosition(1, 10))
    stats = trainer.read()
    assert not stats.owners["mixer"].finite
    assert stats.owners["attention"].finite
    assert stats.base_sound
    for old, new in zip(before, trainer.student.parameters(), strict=True):
        assert torch.equal(old, new) or bool(old.isnan().any())
    trainer.detach("mixer")
    trainer.step(crops(2, dtype=torch.float32), StepPosition(2, 10))
    assert all(owner.finite for owner in trainer.read().owners.values())
    assert all(bool(p.isfinite().all()) for p in trainer.student.parameters())


@pytest.mark.parametrize("objective", ["ibot", "simclr", "byol"])
def test_a_trainer_goes_on_from_a_state_with_the_same_bits(objective: str) -> None:
    """Heads that left before are not in it; those left go on as if nothing had happened."""
    heads = ["attention", "mixer", "poolformer"]
    first = make_trainer(heads, objective=objective, dtype=torch.float32)
    for step in range(3):
        first.step(crops(step, dtype=torch.float32), StepPosition(step, 6))
    first.detach("mixer")
    first.read()
    state = {name: tensor.clone() for name, tensor in first.state().items()}
    second = make_trainer(["attention", "poolformer"], objective=objective, dtype=torch.float32)
    second.load_state(state)
    for step in range(3, 6):
        for trainer in (first, second):
            trainer.step(crops(step, dtype=torch.float32), StepPosition(step, 6))
    assert first.read() == second.read()
    expected, found = first.state(), second.state()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


def test_the_state_of_one_head_is_that_and_the_bases() -> None:
    trainer = make_trainer(["attention", "mixer"], dtype=torch.float32)
    trainer.step(crops(dtype=torch.float32), StepPosition(0, 4))
    alone = make_trainer(["mixer"], dtype=torch.float32)
    alone.step(crops(dtype=torch.float32), StepPosition(0, 4))
    state = trainer.state(["mixer"])
    assert state.keys() == alone.state().keys()
    alone.load_state(state)
    assert all(torch.equal(tensor, alone.state()[name]) for name, tensor in state.items())
    with pytest.raises(RuntimeError, match="Unexpected key"):
        alone.load_state(trainer.state())


class Poisoned(nn.Module):
    """A head that is not finite from its n-th training forward on; the teacher's copy is fine."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.weight, self.left, self.norm = nn.Conv2d(32, 32, 1), after, nn.BatchNorm2d(32)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.left -= 1
        return self.norm(self.weight(x)) * (1.0 if self.left >= 0 else math.nan)


def windows(trainer: Trainer, loader: Loader, last: int) -> Iterator[Progress]:
    """Trains from the first step to the last, as a search and a solo run do."""
    step = 0
    while step < last:
        progress = train_window(trainer, loader, window_from(step, last))
        step = progress.step
        yield progress


@pytest.mark.parametrize("objective", ["ibot", "simclr", "mocov3"])
@pytest.mark.parametrize("coupling", ["joint", "observe"])
@pytest.mark.parametrize("bad", [0, 4, 9, 13])
def test_after_a_bad_step_all_goes_on_as_if_the_head_had_left_before_it(
    objective: str, coupling: Coupling, bad: int
) -> None:
    """To the bit: the base, the other heads, their teacher, moments, buffers and losses."""
    leaves_before(objective, coupling, bad)


def test_after_a_bad_step_the_heads_that_are_left_divide_its_images_among_them() -> None:
    leaves_before("simclr", "joint", 4, images_per_head="share")


def leaves_before(objective: str, coupling: Coupling, bad: int, **settings: Any) -> None:
    """Trains with a head that is poisoned at step `bad`, and without it from there on."""
    pixels = torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8)
    images = ImagesInMemory("noise", pixels, None, ())
    config = resolve({"epochs": 10, "batch_size": 6, "images": 12, "lr": 1e-2})

    def trainer(steps_before_poison: int) -> Trainer:
        made = make_trainer(["attention", "mixer"], coupling, objective, dtype=torch.float32,
                            **settings)  # fmt: skip
        made.attach("poisoned", lambda: Poisoned(steps_before_poison), 32)
        return made

    found = trainer(bad)
    loader = Loader(images, config, torch.device("cpu"))
    for progress in windows(found, loader, 20):
        assert progress.stats is not None
        assert progress.stats.base_sound
        if progress.stats.blamed:
            assert progress.stats.blamed == {"poisoned"}
            assert progress.step == bad
            found.detach("poisoned")
    assert "poisoned" not in found.student.heads

    expected = trainer(1000)
    moments = [StepPosition(step, 20) for step in range(20)]
    for position in moments:
        if position.step == bad:
            expected.detach("poisoned")
        expected.step(loader.crops(position.step), position)
    expected.read()
    wanted, got = expected.state(), found.state()
    assert wanted.keys() == got.keys()
    for name, tensor in wanted.items():
        assert torch.equal(tensor, got[name]), name


def test_a_head_that_stays_attached_after_it_was_blamed_is_a_mistake_of_the_caller() -> None:
    pixels = torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8)
    config = resolve({"epochs": 10, "batch_size": 6, "images": 12})
    trainer = make_trainer([], dtype=torch.float32)
    trainer.attach("poisoned", lambda: Poisoned(2), 32)
    loader = Loader(ImagesInMemory("noise", pixels, None, ()), config, torch.device("cpu"))
    with pytest.raises(AssertionError, match="blamed"):
        list(windows(trainer, loader, 20))


def test_the_next_batch_is_read_while_this_one_is_worked_on() -> None:
    """The batch after this one is read before anybody asks for it, but not the one after that."""
    begun = {step: threading.Event() for step in range(4)}

    def read(step: int) -> Tensor:
        begun[step].set()
        return torch.tensor(step)

    batches = ReadAhead(4)
    for step in range(3):
        assert int(batches.get(step, read)) == step
        assert begun[step + 1].wait(timeout=20)
        assert not any(begun[later].is_set() for later in range(step + 2, 4))
    assert int(batches.get(3, read)) == 3


def test_any_step_can_be_asked_for_as_where_training_goes_back() -> None:
    batches, steps = ReadAhead(9), [0, 1, 2, 1, 2, 8, 0]
    assert [int(batches.get(step, torch.tensor)) for step in steps] == steps


def test_an_error_in_reading_ahead_is_raised_at_its_step() -> None:
    def read(step: int) -> Tensor:
        if step == 2:
            raise UserError("gone")
        return torch.tensor(step)

    batches = ReadAhead(4)
    assert [int(batches.get(step, read)) for step in (0, 1)] == [0, 1]
    with pytest.raises(UserError, match="gone"):
        batches.get(2, read)


def test_nothing_is_read_beyond_the_last_step() -> None:
    asked = []

    def read(step: int) -> Tensor:
        asked.append(step)
        return torch.tensor(step)

    batches = ReadAhead(3)
    assert [int(batches.get(step, read)) for step in range(3)] == [0, 1, 2]
    assert asked == [0, 1, 2]


def test_a_loader_draws_an_order_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def order(count: int, epoch: int, seed: int) -> Tensor:
        drawn.append(epoch)
        return epoch_order(count, epoch, seed)

    monkeypatch.setattr("headsearch.data.loader.epoch_order", order)
    pixels = torch.zeros(12, 3, 16, 16, dtype=torch.uint8)
    config = resolve({"epochs": 3, "batch_size": 4, "images": 12})
    loader = Loader(ImagesInMemory("zeros", pixels, None, ()), config, torch.device("cpu"))
    for step in range(loader.steps):
        loader.crops(step)
    assert drawn == [0, 1, 2]


def test_steps_that_cannot_be_recorded_are_taken_as_they_are() -> None:
    """Without a CUDA device recording fails, as it does with a head that waits for the device."""
    if torch.cuda.is_available():
        pytest.skip("here they can be recorded")
    trainer, plain = (make_trainer(["mixer"], dtype=torch.float32) for _ in range(2))
    trainer._graph = CudaGraphStep(trainer.student.parameters, trainer.device, possible=True)
    for step in range(WARM_UP):
        assert not trainer.settled
        trainer.step(crops(step, dtype=torch.float32), StepPosition(step, 9))
    with pytest.warns(UserWarning, match="steps could not be recorded, and are slower for it"):
        trainer.step(crops(WARM_UP, dtype=torch.float32), StepPosition(WARM_UP, 9))
    assert trainer.settled
    for step in range(WARM_UP + 1):
        plain.step(crops(step, dtype=torch.float32), StepPosition(step, 9))
    for name, expected in plain.state().items():
        assert torch.equal(trainer.state()[name], expected), name


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux does")
def test_reading_ahead_starts_no_threads_of_its_own() -> None:
    """A second team of OpenMP threads would slow down every operation of a step."""
    pixels = torch.zeros(512, 3, 64, 64, dtype=torch.uint8)
    images = ImagesInMemory("zeros", pixels, None, ())

    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    def read(step: int) -> torch.Tensor:
        before = threads()
        images.batch(torch.randperm(512))
        return torch.tensor(threads() - before)

    torch.set_num_threads(2)
    try:
        batches = ReadAhead(3)
        assert [batches.get(step, read).item() for step in range(3)] == [0, 0, 0]
    finally:
        torch.set_num_threads(1)


def test_a_trainer_is_freed_with_its_last_reference() -> None:
    """The next cohort's networks are built then; a cycle would hold both in memory."""
    trainer = make_trainer(["mixer"], dtype=torch.float32)
    trainer.step(crops(0, dtype=torch.float32), StepPosition(0, 9))
    gone = weakref.ref(trainer)
    gc.collect()
    gc.disable()
    try:
        del trainer
        assert gone() is None
    finally:
        gc.enable()
