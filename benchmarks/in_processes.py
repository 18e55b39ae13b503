"""Runs a function on independent tasks in several processes at once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

Task = TypeVar("Task", bound=tuple[object, ...])
Result = TypeVar("Result")


def in_processes(
    work: Callable[..., Result], tasks: Iterable[Task], *shared: object, jobs: int
) -> Iterator[tuple[Task, Result]]:
    """Yields each task with the result of `work(*task, *shared)`, in the order in which they end.

    Args:
        work: a function that can be pickled.
        tasks: the arguments that differ.
        shared: arguments that all tasks have in common, after their own.
        jobs: how many processes run at once.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
        running = {pool.submit(work, *task, *shared): task for task in tasks}
        for future in as_completed(running):
            yield running[future], future.result()
