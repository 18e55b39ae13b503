"""Harms searches on a local engine, resumes them, and compares their tables with those of `run`.

    python benchmarks/chaos.py

For each fault a tiny search starts as `headsearch run --engine local`. Once a cohort has trained,
one of its processes gets a signal. Timed is how long it takes until the driver acts on it, or until
no process is left. A search that ended is resumed. Writes results/scaling/chaos.csv.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

OUT = Path(__file__).parents[1] / "results" / "scaling" / "chaos.csv"
HEADSEARCH = [sys.executable, "-m", "headsearch"]
SETTINGS = {
    "base": "test_vit", "space": "controls.yaml", "image-size": 16, "patch-size": 4, "images": 64,
    "epochs": 20, "batch-size": 16, "rungs": 2, "eval-images": 64, "bank-images": 64,
    "min-keep": 1, "cohort": 2, "device": "cpu", "precision": "float32", "threads": 1,
}  # fmt: skip
FLAGS = [part for name, value in SETTINGS.items() for part in (f"--{name}", str(value))]
GRACE_S = 20
MARK = "HEADSEARCH_CHAOS"
"""An environment variable that all processes of a search inherit."""
WORKER, DRIVER = "ray::_perform", "-m headsearch"


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        name: in a few words.
        victim: what the command line of the process contains.
        number: the signal.
        acted: what the driver says when it acts on it; empty if the search ends by it.
    """

    name: str
    victim: str
    number: signal.Signals
    acted: str = ""


FAULTS = (
    Fault("SIGKILL of a worker", WORKER, signal.SIGKILL, "its process died"),
    Fault("SIGSTOP of a worker", WORKER, signal.SIGSTOP, "no sign of life"),
    Fault("SIGKILL of the head", "gcs_server", signal.SIGKILL),
    Fault("SIGKILL of the driver", DRIVER, signal.SIGKILL),
    Fault("SIGTERM", DRIVER, signal.SIGTERM),
    Fault("Ctrl-C", DRIVER, signal.SIGINT),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        one = Path(folder) / "one"
        subprocess.run([*HEADSEARCH, "run", *FLAGS, "--out", one], check=True, stdout=sys.stderr)
        rows = []
        for fault in FAULTS:
            rows.append(harmed(fault, Path(folder), one))
            pd.DataFrame(rows).to_csv(arguments.out, index=False)
    print(pd.DataFrame(rows))


def harmed(fault: Fault, folder: Path, one: Path) -> dict[str, Any]:
    """Runs a search with a fault to its end; the row of chaos.csv."""
    run = folder / fault.name.replace(" ", "-")
    environment = {**os.environ, MARK: run.name, "OMP_NUM_THREADS": "1"}
    given = ["--out", str(run), "--engine", "local", "--grace", str(GRACE_S)]
    process = subprocess.Popen(
        [*HEADSEARCH, "run", *FLAGS, *given], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    lines = said_by(process)
    for line in lines:
        if " rung 1/2" in line:
            break
    began = time.monotonic()
    victim = next(pid for pid, words in processes(run.name) if fault.victim in words)
    if fault.number == signal.SIGINT:  # as a terminal does
        os.killpg(process.pid, fault.number)
    else:
        os.kill(victim, fault.number)
    if fault.acted:
        next(line for line in lines if fault.acted in line)
    else:
        process.wait()
        while any(processes(run.name)):
            time.sleep(0.1)
    seconds = time.monotonic() - began
    for _ in lines:
        pass
    resumed = process.wait() != 0
    if resumed:
        subprocess.run(
            [*HEADSEARCH, "resume", str(run)], env=environment, check=True, stdout=sys.stderr
        )
    return {
        "fault": fault.name, "seconds": seconds,
        "timed": "until another attempt" if fault.acted else "until no process is left",
        "resumed": "yes" if resumed else "no", "same": same(run, one),
    }  # fmt: skip


def said_by(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        sys.stderr.write(line)
        yield line


def processes(mark: str) -> Iterator[tuple[int, str]]:
    """The processes of a search with their command lines, without zombies."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if words and f"{MARK}={mark}\0".encode() in (folder / "environ").read_bytes():
                yield int(folder.name), words
        except OSError:
            continue


def same(first: Path, second: Path) -> bool:
    """Whether two runs have the same tables, measured times apart."""
    equal = all(
        (first / name).read_bytes() == (second / name).read_bytes()
        for name in ("rungs.csv", "scores.csv")
    )
    tables = [pd.read_csv(each / "ranking.csv").drop(columns="step_ms") for each in (first, second)]
    return equal and tables[0].equals(tables[1])


if __name__ == "__main__":
    main()
