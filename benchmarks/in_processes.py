"""Independent pieces of work side by side, in processes of their own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

Task = TypeVar("Task", bound=tuple[object, ...])
Found = TypeVar("Found")


def in_processes(
    work: Callable[..., Found], tasks: Iterable[Task], *also: object, jobs: int
) -> Iterator[tuple[Task, Found]]:
    """What `work(*task, *also)` comes to, task by task as they end."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
        running = {pool.submit(work, *task, *also): task for task in tasks}
        for ended in as_completed(running):
            yield running[ended], ended.result()
