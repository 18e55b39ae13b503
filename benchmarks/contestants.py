"""Those that `peers.py` compares, in processes of their own, where they wait for their turn.

So what one sets up for itself (threads, attention, how memory is kept) is none of another's.
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
MOMENT = StepPosition(500, 1000)  # amid a run, where no schedule does anything of its own
AT_LEAST_S = 0.2
"""Steps on given crops that are shorter are timed several in a row: a GPU is not to run dry."""
DATA_STEPS = 3
"""Steps of a turn in which data are made, after one that is not counted: workers start in it."""

Turn = Callable[[], tuple[float, float]]
"""Takes a turn: the seconds of a step, and those of them that went by waiting for data."""


@dataclass(frozen=True)
class Task:
    """What all do in turn.

    Attributes:
        setting: what a step is made with.
        timm_name, arguments: of the backbone.
        fused_attention: whether a peer's backbone has PyTorch's fused attention, as timm's has.
        crops: (2, B, 3, S, S); None where each makes its own of `pixels`.
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
        """timm's own model."""
        timm.layers.set_fused_attn(fused)
        return timm.create_model(self.timm_name, num_classes=0, **self.arguments)

    def peer(self) -> nn.Module:
        return self.backbone(fused=self.fused_attention)


def ground_of(
    base: str, objective: str, precision: str, threads: int, device: str
) -> TrainingSetup:
    """What headsearch itself stands on."""
    settings = BASES[base]
    return prepare_training(
        resolve({
            **settings, "objective": objective, "precision": precision, "device": device,
            "threads": threads, "images": 4 * settings["batch_size"], "epochs": 1000,
            "eval_images": 32, "bank_images": 8,
        })
    )  # fmt: skip


def serve(threads: int, clock: str, connection: Connection) -> None:
    """Takes turns at the tasks that come in, each with a contestant's name, until the line closes.

    Answers a task with whether the contestant takes part, a turn (None for a task) with its
    seconds, and a failure with text.
    """
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # libraries print as they please
        os.dup2(quiet, stream)
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
                turns.pop(name, None)  # what it holds is not needed any more
                turns[name] = CONTESTANTS[name](task, now)
                connection.send(turns[name] is not None)
            else:
                turn = turns[name]
                assert turn is not None
                connection.send(turn())
        except Exception:
            connection.send(traceback.format_exc())


Clock = Callable[[], float]


def _headsearch(task: Task, now: Clock) -> Turn:
    threads = torch.get_num_threads()
    setting = task.setting
    setup = ground_of(task.base, setting.objective, task.precision, threads, setting.device)
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
    loop = PlainLoop(task.peer(), task.setting)
    return None if task.crops is None else _turn(task, loop.step, None, now)


def _lightly(task: Task, now: Clock, workers: int = 0) -> Turn | None:
    import lightly_loops

    loop = lightly_loops.LightlyLoop(task.peer(), task.setting)
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
    loop, crops = loops.StablePretrainingLoop(task.peer(), setting), task.crops
    return lambda: (loop.seconds(crops, 1, now), 0.0)


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
    """A turn of steps on the task's crops, or of some steps, each with data of its own."""
    device = torch.device(task.setting.device)
    crops = None if task.crops is None else task.crops.to(device)

    def now() -> float:
        synchronize(device)
        return clock()

    def alone() -> tuple[float, float]:
        count, started = 0, now()
        while (taken := now() - started) < AT_LEAST_S:
            for _ in range(max(1, count)):
                step(crops)
            count += max(1, count)  # twice as many before the device is waited for again
        return taken / count, 0.0

    def with_data() -> tuple[float, float]:
        assert data is not None
        made, waited = data(), 0.0
        step(next(made))
        started = now()
        for _ in range(DATA_STEPS):
            asked = now()
            views = next(made)
            waited += now() - asked
            step(views)
        return (now() - started) / DATA_STEPS, waited / DATA_STEPS

    return with_data if crops is None else alone
