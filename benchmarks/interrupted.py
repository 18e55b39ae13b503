"""A long run that is interrupted at random throughout, against the same run left alone.

    python benchmarks/soak.py --cohorts 300 --run results/whole --out results/soak.csv
    python benchmarks/interrupted.py --cohorts 300 --run results/cut --like results/whole \\
        --out results/interrupted.csv

The search of `soak.py` from the command line: SIGKILL, SIGTERM or Ctrl-C at random moments (an
exponential waiting time, start-up included), then `headsearch resume`, until it has come to its
end. Writes a row an interruption: seconds since the beginning, the signal, the exit status, and how
far the snapshot left was. Exits with 1 where the tables are not those of the other run, byte for
byte (but for how long a head's step took), or a process ended in another way than it was told to.
Started again, it goes on; with --minutes it stops, and compares the rows that there are.
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

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
EXPECTED = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
HEADSEARCH = [sys.executable, "-m", "headsearch"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="the run directory")
    parser.add_argument("--like", type=Path, required=True, help="the same run, left alone")
    parser.add_argument("--out", type=Path, required=True, help="the table")
    parser.add_argument("--cohorts", type=int, default=COHORTS)
    parser.add_argument("--every", type=float, default=40.0, help="seconds, on average")
    parser.add_argument("--minutes", type=float, default=math.inf, help="then it is left as it is")
    arguments = parser.parse_args()
    run: Path = arguments.run
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
    rows = pd.read_csv(arguments.out).to_dict("records") if arguments.out.exists() else []
    before = rows[-1]["seconds"] if rows else 0.0
    draw, started = random.Random(len(rows)), time.monotonic() - before
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
            wait, sent = draw.expovariate(1 / arguments.every), draw.choice(SIGNALS)
            try:
                ended = process.wait(timeout=wait)
                break  # it came to its end, or failed by itself
            except subprocess.TimeoutExpired:
                process.send_signal(sent)
                status = process.wait(timeout=900)
            # told before it listened, Python ends by the signal itself; or it had just ended
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
        sys.exit(f"it failed by itself, with exit status {ended}: see the log")
    whole = ended == 0
    minutes, same = (time.monotonic() - started) / 60, _same(run, arguments.like, whole=whole)
    print(
        f"{len(rows)} interruptions in {minutes:.0f} minutes, {unexpected} with another exit "
        f"status than expected; {'the tables' if whole else 'all rows so far'} are "
        f"{'the same' if same else 'NOT the same'}"
    )
    sys.exit(int(not same or unexpected > 0))


def _same(first: Path, second: Path, *, whole: bool) -> bool:
    """Whether tables agree byte for byte; of an unfinished run, whether all its rows do."""
    for name in ("rungs.csv", "scores.csv"):
        ours, theirs = ((run / name).read_text().splitlines() for run in (first, second))
        print(f"{name}: {len(ours)} lines, beside {len(theirs)}")
        if ours != theirs if whole else not set(ours) <= set(theirs):
            return False
    if not whole:
        return True
    tables = [pd.read_csv(run / "ranking.csv", dtype=str) for run in (first, second)]
    return tables[0].drop(columns="step_ms").equals(tables[1].drop(columns="step_ms"))


if __name__ == "__main__":
    main()
