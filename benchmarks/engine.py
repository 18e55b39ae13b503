"""Measures what the engine itself costs: its start, empty tasks, and the driver's memory.

    python benchmarks/engine.py

Writes results/scaling/engine.csv. Empty tasks say that they have begun and are done. In reused
processes they show what driver and scheduler take. A cohort has a fresh process; tasks in fresh
processes show what its start takes, without importing PyTorch. For the results of many cohorts one
is trained, and the others have its result; the memory is that after the tenth and after the last.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from chaos import SETTINGS

from headsearch.cluster.driver import Driver, DriverEvent, Job, JobStates
from headsearch.cluster.engine import Ended, Heard, Message, News
from headsearch.cluster.ray_engine import RayEngine, connected
from headsearch.cluster.search import EngineSearch
from headsearch.cluster.task import perform
from headsearch.config.settings import resolve
from headsearch.runs.directory import claimed
from headsearch.study.setup import prepare

OUT = Path(__file__).parents[1] / "results" / "scaling" / "engine.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--reused", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--fresh", type=int, nargs="+", default=[100])
    parser.add_argument("--cohorts", type=int, default=200)
    parser.add_argument("--only-cohorts", action="store_true", help="Only those: a row is added.")
    arguments = parser.parse_args()
    many = results(arguments.cohorts)
    if arguments.only_cohorts:
        before = pd.read_csv(arguments.out)
        kept = before[before["what"] != many["what"]]
        pd.concat([kept, pd.DataFrame([many])]).to_csv(arguments.out, index=False)
        return
    began, before = time.monotonic(), memory_mb()
    with connected("local", cpus=1, gpu=False) as engine:
        rows = [row("start of a local engine", 0, began, before)]
        for count in arguments.reused:
            rows.append(empty_tasks(engine, count, fresh=False))
        for count in arguments.fresh:
            rows.append(empty_tasks(engine, count, fresh=True))
        began, before = time.monotonic(), memory_mb()
    rows.append(row("its end", 0, began, before))
    table = pd.DataFrame([*rows, many])
    print(table)
    table.to_csv(arguments.out, index=False)


def empty(order: str) -> Iterator[str]:
    """A task that does nothing."""
    yield json.dumps({"kind": "begun", "machine": "m", "host": "h", "pid": os.getpid()})
    yield json.dumps({"kind": "done", "result": {}})


def empty_tasks(engine: RayEngine, count: int, *, fresh: bool) -> dict[str, Any]:
    """Runs empty tasks; the row of engine.csv."""
    limit = {"max_calls": 1} if fresh else {}
    make = engine._ray.remote(num_cpus=1, max_retries=0, num_returns="streaming", **limit)
    engine._perform = make(empty)
    done = 0

    def accept(*_: Any) -> None:
        nonlocal done
        done += 1

    with tempfile.TemporaryDirectory() as folder:
        jobs = [Job(f"job {n}", {}, Path(folder) / f"job{n}") for n in range(count)]
        began, before = time.monotonic(), memory_mb()
        Driver(engine, 600.0, accept).run(jobs, threading.Event())
    assert done == count
    return row(f"empty tasks, {'fresh' if fresh else 'reused'} processes", count, began, before)


def row(what: str, tasks: int, began: float, before: float) -> dict[str, Any]:
    return {
        "what": what, "tasks": tasks, "seconds": time.monotonic() - began,
        "mb_before": before, "mb_after": memory_mb(),
    }  # fmt: skip


class Repeating:
    """An engine that trains the first cohort in this process; the others have its result."""

    def __init__(self) -> None:
        self._first: tuple[str, str] | None = None
        self._waiting: deque[tuple[int, Message]] = deque()
        self._started = 0

    def start(self, order: Message, avoid: Collection[str] = ()) -> int:
        self._started += 1
        self._waiting.append((self._started, order))
        return self._started

    def news(self, seconds: float) -> list[News]:
        task, order = self._waiting.popleft()
        name = order["candidates"][0]["name"]
        if self._first is None:
            *_, last = perform(json.dumps(order), "here")
            self._first = name, last
        before, message = self._first
        return [Heard(task, json.loads(message.replace(before, name))), Ended(task)]

    def cancel(self, task: int, *, force: bool) -> None: ...

    def machines(self) -> Mapping[str, str]:
        return {"here": "here"}


def results(cohorts: int) -> dict[str, Any]:
    """What a search of many cohorts of one head takes of its driver; its row."""
    with tempfile.TemporaryDirectory() as folder:
        space = Path(folder) / "space.yaml"
        space.write_text("families:\n  attention: {depth: 1, mlp_ratio: {low: 1.0, high: 4.0}}\n")
        flags = {
            **{name.replace("-", "_"): value for name, value in SETTINGS.items()},
            "space": str(space), "trials": cohorts, "cohort": 1, "sampler": "random", "epochs": 1,
            "rungs": 1,
        }  # fmt: skip
        prepared = prepare(resolve(flags))
        flags["out"] = Path(folder) / "run"
        memory: list[float] = []

        def note(event: DriverEvent) -> None:
            if isinstance(event, JobStates) and event.ended is not None:
                memory.append(memory_mb())

        with claimed(resolve(flags), flags) as run:
            running = EngineSearch(
                prepared, run, Repeating(), name="local", generation=8, grace=60.0
            )
            began = time.monotonic()
            running.run(note)
        assert running.complete
    found = row("results of cohorts of one head", cohorts, began, memory[9])
    return {**found, "mb_after": memory[-1]}


def memory_mb() -> float:
    """The resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
