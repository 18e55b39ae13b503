"""The training loops that `peers.py` compares, each served by a process of its own.

Separate processes keep what one contestant sets up (threads, attention, handling of freed memory)
from affecting another.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import ground_truth
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from plain_loops import PlainLoop, Setting, TunedLoop
from torch import Tensor, nn

from headsearch.config.settings import resolve
from headsearch.data.loader import Loader
from headsearch.device import synchronize
from headsearch.training.environment import keep_freed_memory
from headsearch.training.schedules import StepPosition
from headsearch.training.setup import TrainingSetup, prepare_training

BASES: dict[str, dict[str, Any]] = {
    "small": {**ground_truth.BASE, "image_size": 32, "batch_size": 128},
    "vit_s": {"base": "vit_s", "patch_size": 8, "image_size": 64, "batch_size": 16},
    "vit_s at 224": {"base": "vit_s", "image_size": 224, "patch_size": 16, "batch_size": 128},
}
MOMENT = StepPosition(500, 1000)
"""The position in a run at which steps are measured: in its middle, where no schedule starts or
ends."""
AT_LEAST_S = 0.2
"""Steps on given crops are repeated for at least so many seconds: a GPU that is waited for after
each step would have no work queued."""
DATA_STEPS = 3
"""Steps of a turn with data loading, after one that is not counted, in which workers start."""

Turn = Callable[[], tuple[float, float]]
"""Takes a turn: returns the seconds of a step, and how many of them were spent waiting for data."""
Clock = Callable[[], float]
"""Returns a time in seconds."""


@dataclass(frozen=True)
class Task:
    """What all contestants do in turn.

    Attributes:
        base: a key of `BASES`.
        precision: as `--precision`.
        setting: objective and hyperparameters of a step.
        timm_name: of the backbone.
        arguments: of the backbone, for timm.
        fused_attention: whether backbones of peers use PyTorch's fused attention, timm's default.
        batch_size: images of a step.
        crops: (2, B, 3, S, S); None where each contestant makes its own from `pixels`.
        pixels: (N, S, S, 3) uint8.
    """

    base: str
    precision: str
    setting: Setting
    timm_name: str
    arguments: dict[str, Any]
    fused_attention: bool
    batch_size: int
    crops: Tensor | None
    pixels: NDArray[Any]

    def backbone(self, *, fused: bool) -> nn.Module:
        """timm's unchanged model."""
        timm.layers.set_fused_attn(fused)
        return timm.create_model(self.timm_name, num_classes=0, **self.arguments)

    def peer_backbone(self) -> nn.Module:
        """The backbone for other libraries and the plain loop."""
        return self.backbone(fused=self.fused_attention)


def headsearch_setup(
    base: str, objective: str, precision: str, threads: int, device: str
) -> TrainingSetup:
    """The set-up of headsearch's own training, from which the other contestants' is derived."""
    settings = BASES[base]
    return prepare_training(
        resolve({
            **settings, "objective": objective, "precision": precision, "device": device,
            "threads": threads, "images": 4 * settings["batch_size"], "epochs": 1000,
            "eval_images": 32, "bank_images": 8,
        })
    )  # fmt: skip


def serve(threads: int, clock: str, connection: Connection) -> None:
    """Serves requests, each a contestant's name and a task or None, until the connection closes.

    A task makes the contestant ready for it; the answer is whether it takes part. None asks for one
    turn; the answer is what `Turn` returns. The answer to a request that fails is a traceback.

    Args:
        threads: of PyTorch in this process.
        clock: `cpu` for the process's own CPU time, else wall time.
        connection: the process's end of a pipe.
    """
    # Libraries write to standard output and standard error, some of them from C.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    torch.set_num_threads(threads)
    now = time.process_time if clock == "cpu" else time.perf_counter
    turns: dict[str, Turn | None] = {}
    while True:
        try:
            name, task = connection.recv()
        except EOFError:
            return
        try:
            if task is not None:
                turns.pop(name, None)  # frees the memory of the task before
                turns[name] = CONTESTANTS[name](task, now)
                connection.send(turns[name] is not None)
            else:
                turn = turns[name]
                assert turn is not None
                connection.send(turn())
        except Exception:
            connection.send(traceback.format_exc())


def _headsearch(task: Task, now: Clock) -> Turn:
    threads = torch.get_num_threads()
    setting = task.setting
    setup = headsearch_setup(task.base, setting.objective, task.precision, threads, setting.device)
    trainer = setup.new_trainer("joint")

    def step(crops: Tensor) -> None:
        trainer.step(crops, MOMENT)

    def data() -> Iterator[Tensor]:
        loader = Loader(setup.data.train, setup.config, setup.device)
        return map(loader.crops, range(DATA_STEPS + 1))

    return _turn(task, step, data, now)


def _tuned(task: Task, now: Clock) -> Turn | None:
    on_cpu = task.setting.device == "cpu"
    if on_cpu:
        keep_freed_memory()
    loop = TunedLoop(task.backbone(fused=not on_cpu), task.setting)
    return None if task.crops is None else _turn(task, loop.step, None, now)


def _plain(task: Task, now: Clock) -> Turn | None:
    loop = PlainLoop(task.peer_backbone(), task.setting)
    return None if task.crops is None else _turn(task, loop.step, None, now)


def _lightly(task: Task, now: Clock, workers: int = 0) -> Turn | None:
    import lightly_loops

    loop = lightly_loops.LightlyLoop(task.peer_backbone(), task.setting)
    pictures = [Image.fromarray(image) for image in task.pixels]

    def data() -> Iterator[list[Tensor]]:
        return lightly_loops.lightly_batches(
            pictures, task.setting.objective, task.batch_size, workers
        )

    return _turn(task, loop.step, data, now)


def _lightly_with_worker(task: Task, now: Clock) -> Turn | None:
    return _lightly(task, now, workers=1) if task.crops is None else None


def _stable_pretraining(task: Task, now: Clock) -> Turn | None:
    import stable_pretraining_loops as loops

    setting = task.setting
    if task.crops is None or setting.objective not in loops.OBJECTIVES or setting.device != "cpu":
        return None
    loop, crops = loops.StablePretrainingLoop(task.peer_backbone(), setting), task.crops
    return lambda: (loop.seconds(crops, 1, now), 0.0)


# By name: makes a contestant ready for a task; None where it does not take part.
CONTESTANTS: dict[str, Callable[[Task, Clock], Turn | None]] = {
    "headsearch": _headsearch,
    "tuned": _tuned,
    "plain": _plain,
    "lightly": _lightly,
    "lightly, 1 worker": _lightly_with_worker,
    "stable-pretraining": _stable_pretraining,
}


def _turn(
    task: Task,
    step: Callable[[Any], Any],
    data: Callable[[], Iterator[Any]] | None,
    clock: Clock,
) -> Turn:
    """A turn of steps on the task's crops, or of `DATA_STEPS` steps with data loading.

    Args:
        task: with the crops, if it has any.
        step: takes the crops of a step.
        data: returns an iterator over crops; None for a contestant without data loading.
        clock: the time.
    """
    device = torch.device(task.setting.device)
    crops = None if task.crops is None else task.crops.to(device)

    def now() -> float:
        synchronize(device)
        return clock()

    def step_alone() -> tuple[float, float]:
        count, started = 0, now()
        while (taken := now() - started) < AT_LEAST_S:
            # As many as before, so that the device is waited for a few times only.
            more = max(1, count)
            for _ in range(more):
                step(crops)
            count += more
        return taken / count, 0.0

    def step_with_data() -> tuple[float, float]:
        assert data is not None
        batches_of_crops, waited = data(), 0.0
        step(next(batches_of_crops))
        started = now()
        for _ in range(DATA_STEPS):
            requested = now()
            views = next(batches_of_crops)
            waited += now() - requested
            step(views)
        return (now() - started) / DATA_STEPS, waited / DATA_STEPS

    return step_with_data if crops is None else step_alone
