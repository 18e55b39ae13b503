"""How many processes read photos, and what the training process notices of them."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch

from headsearch.config.settings import RunConfig
from headsearch.data import workers
from headsearch.data.image.store import ImagesInMemory
from headsearch.data.loader import Loader
from headsearch.data.workers import StepRead, WorkerReads, worker_count

GIB = 2**30


@pytest.mark.parametrize(
    ("cores", "wanted", "free", "expected"),
    [
        (2, None, 64, 0),
        (4, None, 64, 0),
        (8, None, 64, 7),
        (64, None, 64, 16),
        (2, 3, 64, 3),
        (64, 0, 64, 0),
        (8, None, 0.001, 0),
        (8, None, 0.25, 4),
    ],
)
def test_processes_follow_cores_and_shared_memory(
    cores: int, wanted: int | None, free: float, expected: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(workers, "cores_here", lambda: cores)
    usage = SimpleNamespace(free=int(free * GIB))
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda _: usage)
    assert worker_count(wanted, step_bytes=10 * 2**20) == expected


def read_step(step: int) -> StepRead:
    return StepRead(torch.full((2,), step), [])


def test_steps_come_in_order_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    reads = WorkerReads(read_step, steps=6, count=2, pinned=False)
    assert [int(reads.get(step).crops[0]) for step in (0, 1, 2, 5, 2, 3)] == [0, 1, 2, 5, 2, 3]
    assert torch.equal(torch.get_rng_state(), before)


class SlowImages(ImagesInMemory):
    def batch(self, indices: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        return super().batch(indices)


def test_the_loader_says_how_long_it_waited():
    images = SlowImages("slow", torch.zeros(32, 3, 16, 16, dtype=torch.uint8), None, ())
    loader = Loader(images, RunConfig(batch_size=16, lr=1e-3), torch.device("cpu"))
    loader.crops(0)
    assert loader.take_waited_s() >= 0.02
    assert loader.take_waited_s() == 0
