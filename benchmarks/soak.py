"""Checks in a long, tiny search that memory, open files and threads do not grow with its length.

    python benchmarks/soak.py --out results/soak.csv [--cohorts 100] [--run RUN]

One search in one process: in each cohort 6 sampled heads are attached, scored at 6 rungs, pruned
and detached, with a snapshot at every rung, which is 7 a cohort with rung 0. Writes a row every 10
cohorts: resident memory in MiB, open file handles, threads, files in the run directory, and trials
of the study. Exits with 1 if the last third of the run takes over 5 % more memory than the second,
or holds more handles. `interrupted.py` runs the same search with interruptions.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from pathlib import Path
from typing import Any

import optuna
import pandas as pd

from headsearch.config.settings import resolve
from headsearch.runs.tables import write_table
from headsearch.study.events import Event, Scored
from headsearch.study.search import Search
from headsearch.study.setup import prepare

COHORTS, HEADS, RUNGS = 100, 6, 6
SPACE = """
families:
  convnext: {depth: {low: 1, high: 3}, kernel: [3, 5, 7], mlp_ratio: {low: 1.0, high: 4.0}}
  mixer: {depth: {low: 1, high: 3}, mlp_ratio: {low: 1.0, high: 4.0}}
  mbconv: {depth: {low: 1, high: 3}, kernel: [3, 5], expansion: {low: 1.0, high: 4.0}}
controls:
  identity:
"""
SETTINGS: dict[str, Any] = {
    "base": "test_vit", "image_size": 16, "patch_size": 4, "images": 64, "epochs": 6,
    "batch_size": 32, "rungs": RUNGS, "eval_images": 64, "bank_images": 64, "cohort": HEADS,
    "min_keep": 1, "sampler": "random", "threads": 1, "device": "cpu", "precision": "float32",
}  # fmt: skip


def settings(cohorts: int, folder: Path) -> dict[str, Any]:
    """The settings of the search, whose space is written to the folder."""
    space = folder / "soak.yaml"
    space.write_text(SPACE)
    return {**SETTINGS, "trials": cohorts * HEADS, "space": str(space.absolute())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the table")
    parser.add_argument("--cohorts", type=int, default=COHORTS)
    parser.add_argument("--run", type=Path, help="the run directory; default: a temporary one")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.run or Path(folder) / "run"
        search = Search(prepare(resolve({**settings(arguments.cohorts, Path(folder)), "out": run})))
        rungs = 0

        def measure(event: Event) -> None:
            nonlocal rungs
            if not isinstance(event, Scored):
                return
            rungs += 1
            if event.rung == RUNGS and (event.cohort + 1) % 10 == 0:
                gc.collect()
                rows.append({"cohorts": event.cohort + 1, "rungs": rungs, **_resources(search)})
                print(rows[-1], flush=True)
                write_table(arguments.out, pd.DataFrame(rows))

        search.run(measure)
    table = pd.DataFrame(rows)
    third = len(table) // 3
    second, last = table.iloc[third : 2 * third], table.iloc[-third:]
    grown = last["resident_mb"].mean() / second["resident_mb"].mean() - 1
    print(f"memory of the last third over the second: {grown:+.1%}")
    sys.exit(int(grown > 0.05 or last["handles"].max() > second["handles"].max()))


def _resources(search: Search) -> dict[str, int | float]:
    """What this process and its search hold now (Linux)."""
    status = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()
    )  # fmt: skip
    return {
        "resident_mb": round(int(status["VmRSS"].split()[0]) / 1024, 1),
        "handles": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "threads": int(status["Threads"]),
        "files": sum(path.is_file() for path in search.run_directory.rglob("*")),
        "trials": len(search.trials.study.get_trials(deepcopy=False)),
    }


if __name__ == "__main__":
    main()
