"""Interrupts and resumes a long run at random, and compares it with the same run left alone.

    python benchmarks/soak.py --cohorts 300 --run results/whole --out results/soak.csv
    python benchmarks/interrupted.py --cohorts 300 --run results/cut --like results/whole \\
        --out results/interrupted.csv

Runs the search of `soak.py` from the command line, sends SIGKILL, SIGTERM or SIGINT (Ctrl-C) at
random times (exponentially distributed, start-up included), and resumes it with `headsearch
resume`, until it is complete. Writes a row for each interruption: seconds since the start, the
signal, the exit status, and the cohort and steps of the snapshot. Exits with 1 if the tables differ
from those of the other run by a byte (except in the measured time of a head's step), or if a
process ended with another exit status than its signal causes. Started again, the benchmark
continues; with --minutes it stops early and compares the rows that exist by then.
"""

from __future__ import annotations

import argparse
import math
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
from soak import COHORTS, settings

from headsearch.runs.snapshot import read_snapshot
from headsearch.runs.tables import write_table

# Twice SIGKILL: half of the interruptions leave the process no time to write anything.
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
EXPECTED = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
HEADSEARCH = [sys.executable, "-m", "headsearch"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="the run directory")
    parser.add_argument("--like", type=Path, required=True, help="the same run, left alone")
    parser.add_argument("--out", type=Path, required=True, help="the table")
    parser.add_argument("--cohorts", type=int, default=COHORTS)
    parser.add_argument("--every", type=float, default=40.0, help="mean seconds in between")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so many")
    arguments = parser.parse_args()
    run: Path = arguments.run
    # A shell starts commands with `&` such that they, and their children, ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rows = pd.read_csv(arguments.out).to_dict("records") if arguments.out.exists() else []
    before = rows[-1]["seconds"] if rows else 0.0
    rng, started = random.Random(len(rows)), time.monotonic() - before
    flags = [
        part
        for name, value in settings(arguments.cohorts, arguments.out.parent).items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    unexpected, ended = 0, None
    with arguments.out.with_suffix(".log").open("ab") as log:
        while time.monotonic() - started < 60 * arguments.minutes:
            begun = (run / "config.yaml").is_file()
            command = ["resume", str(run)] if begun else ["run", "--out", str(run), *flags]
            process = subprocess.Popen([*HEADSEARCH, *command], stdout=log, stderr=log)
            wait, sent = rng.expovariate(1 / arguments.every), rng.choice(SIGNALS)
            try:
                ended = process.wait(timeout=wait)
                break  # the search is complete, or it failed without a signal
            except subprocess.TimeoutExpired:
                process.send_signal(sent)
                status = process.wait(timeout=900)
            # Also expected: the signal's own status, where it came before Python's handler was
            # set, and 0, where the search had just ended.
            unexpected += status not in (EXPECTED[sent], -sent, 0)
            left = read_snapshot(run) if run.is_dir() else None
            rows.append({
                "seconds": round(time.monotonic() - started, 1),
                "signal": sent.name,
                "status": status,
                "cohort": left.record["cohort"] if left is not None else None,
                "steps": sum(left.record["steps"].values()) if left is not None else None,
            })  # fmt: skip
            write_table(arguments.out, pd.DataFrame(rows))
    if ended:
        sys.exit(
            f"the search failed without a signal, with exit status {ended}: see "
            f"{arguments.out.with_suffix('.log')}"
        )
    complete = ended == 0
    minutes = (time.monotonic() - started) / 60
    same = _same_tables(run, arguments.like, complete=complete)
    print(
        f"{len(rows)} interruptions in {minutes:.0f} minutes, {unexpected} with an unexpected exit "
        f"status; {'the tables' if complete else 'all rows so far'} are "
        f"{'the same' if same else 'NOT the same'}"
    )
    sys.exit(int(not same or unexpected > 0))


def _same_tables(first: Path, second: Path, *, complete: bool) -> bool:
    """Whether the tables agree byte for byte; of an incomplete run, whether all its rows do."""
    for name in ("rungs.csv", "scores.csv"):
        ours, theirs = ((run / name).read_text().splitlines() for run in (first, second))
        print(f"{name}: {len(ours)} lines, beside {len(theirs)}")
        if ours != theirs if complete else not set(ours) <= set(theirs):
            return False
    if not complete:
        return True
    tables = [pd.read_csv(run / "ranking.csv", dtype=str) for run in (first, second)]
    return tables[0].drop(columns="step_ms").equals(tables[1].drop(columns="step_ms"))


if __name__ == "__main__":
    main()
