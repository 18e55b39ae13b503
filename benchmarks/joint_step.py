"""What a joint step costs beside its parts: the default space on vit_s, in one run.

    python benchmarks/joint_step.py --out results/joint_step.json

The same as `headsearch bench --base vit_s --space heads.yaml`, with the figures written to a file
too. It prints ratios; compare times only within one run. Goals: overhead at most 1.05 and saving
at most 0.35 at 8 heads.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import optuna
from rich.console import Console

from headsearch.cli.benchmark_view import print_findings, watch
from headsearch.study.profiling.benchmark import HEADS, REPEATS, Bench
from headsearch.study.profiling.benchmark_setup import bench_settings, prepare_bench
from headsearch.training.environment import resolve_here

CASE = {"base": "vit_s", "space": "heads.yaml", "image_size": 32, "batch_size": 64}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="a .json file for the figures")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    arguments = vars(parser.parse_args())
    out, repeats = arguments.pop("out"), arguments.pop("repeats")
    here = {name: value for name, value in arguments.items() if value is not None}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = bench_settings(resolve_here({**CASE, **here}), max(HEADS))
    bench = Bench(prepare_bench(settings), HEADS, repeats)
    watch(bench)
    found = bench.findings()
    print_findings(Console(highlight=False, markup=False, width=240), found)
    if out is not None:
        out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
