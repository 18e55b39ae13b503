"""`WorkerReads`: processes that read and crop the photos of the next steps, each a whole step.

Threads of one Python process read about 2,000 photos a second, however many cores there are, since
one at a time runs Python. PyTorch's `DataLoader` starts the processes and keeps their order.
"""

from __future__ import annotations

import os
import shutil
import signal
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from headsearch.data.image.store import Bad
from headsearch.device import cores_here

AHEAD = 2
"""How many steps each process reads ahead."""
FEW_CORES, MOST = 4, 16
"""Up to `FEW_CORES` cores threads are as fast; more than `MOST` processes are not started."""
SHARED_MEMORY = Path("/dev/shm")
"""Where processes hand over what they read, on Linux."""


class StepRead(NamedTuple):
    """What was read of a step."""

    crops: list[Tensor]
    """The two views (V, B, C, S, S) and, if there are any, the local crops (L, B, C, s, s)."""
    bad: list[Bad]
    """The images that turned out to be bad."""


def worker_count(wanted: int | None, step_bytes: int) -> int:
    """The number of processes to start; 0 for threads.

    Args:
        wanted: the setting; None to decide by the cores that this process may use.
        step_bytes: the bytes of a step's crops. What is read ahead must fit into half of the free
            shared memory, which is small in many containers.
    """
    if not hasattr(os, "fork"):  # images need not be picklable
        return 0
    cores = cores_here()
    count = wanted if wanted is not None else (0 if cores <= FEW_CORES else min(cores - 1, MOST))
    if SHARED_MEMORY.is_dir():
        free = shutil.disk_usage(SHARED_MEMORY).free
        count = min(count, free // 2 // max(1, (AHEAD + 1) * step_bytes))
    return count


class WorkerReads:
    """Reads the crops of steps in processes, in order.

    Args:
        read: reads the crops of a step; called in the processes.
        steps: the number of steps; nothing is read beyond the last one.
        count: the number of processes.
        pinned: whether crops are put into pinned memory, for CUDA.
    """

    def __init__(
        self, read: Callable[[int], StepRead], steps: int, count: int, *, pinned: bool
    ) -> None:
        self._dataset, self._steps = _Steps(read), steps
        self._count, self._pinned = count, pinned
        self._next = -1
        # The iterator, if any; an iterator that is freed ends its processes. Python at its end
        # would wait for them, so they are ended before, when this object is finalised.
        self._running: list[Iterator[StepRead]] = []
        weakref.finalize(self, self._running.clear)

    def get(self, step: int) -> StepRead:
        """What was read of a step. Steps are expected in order; another one starts anew."""
        if step != self._next:
            self._running.clear()  # before others start
            self._running.append(iter(self._from(step)))
        self._next = step + 1
        return StepRead(*next(self._running[0]))

    def _from(self, step: int) -> DataLoader[StepRead]:
        return DataLoader(
            self._dataset,
            batch_size=None,
            sampler=range(step, self._steps),
            num_workers=self._count,
            prefetch_factor=AHEAD,
            pin_memory=self._pinned,
            worker_init_fn=_ignore_signals,
            generator=torch.Generator(),  # else it draws from the global one, which is not its own
            multiprocessing_context="fork",  # a user's data set need not be picklable
        )


class _Steps(Dataset[StepRead]):
    """A data set whose items are whole steps."""

    def __init__(self, read: Callable[[int], StepRead]) -> None:
        self._read = read

    def __getitem__(self, step: int) -> StepRead:
        return self._read(step)


def _ignore_signals(_: int) -> None:
    """Leaves signals to the training process, which finishes its step and then ends the others."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
