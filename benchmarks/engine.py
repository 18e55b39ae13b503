"""Measures what the engine itself costs: its start, empty tasks, and the driver's memory.

    python benchmarks/engine.py

Writes results/scaling/engine.csv. Empty tasks say that they have begun and are done. In reused
processes they show what driver and scheduler take. A cohort has a fresh process; tasks in fresh
processes show what its start takes, without importing PyTorch.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from headsearch.cluster.driver import Driver, Job
from headsearch.cluster.ray_engine import RayEngine, connected

OUT = Path(__file__).parents[1] / "results" / "scaling" / "engine.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--reused", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--fresh", type=int, nargs="+", default=[100])
    arguments = parser.parse_args()
    began, before = time.monotonic(), memory_mb()
    with connected("local", cpus=1, gpu=False) as engine:
        rows = [row("start of a local engine", 0, began, before)]
        for count in arguments.reused:
            rows.append(empty_tasks(engine, count, fresh=False))
        for count in arguments.fresh:
            rows.append(empty_tasks(engine, count, fresh=True))
        began, before = time.monotonic(), memory_mb()
    rows.append(row("its end", 0, began, before))
    table = pd.DataFrame(rows)
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


def memory_mb() -> float:
    """The resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
