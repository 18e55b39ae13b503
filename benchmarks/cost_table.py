"""How a step's time and memory grow with heads, base and tokens, beside what the tool predicts.

    python benchmarks/cost_table.py --out results/speed/cost_table.csv

The prediction is that of `run --dry-run`: the base and some heads measured one by one, other heads
on the straight line over GFLOPs, memory counted. What is measured is the joint step of K heads of
the default space, in this process, and its peak memory, in another. Writes rows as they come, and
goes on with the rest where it was stopped.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
from pathlib import Path
from statistics import median

import optuna
import pandas as pd

from headsearch.config.settings import RunConfig
from headsearch.runs.tables import write_table
from headsearch.study.profiling.benchmark_setup import (
    bench_heads,
    bench_settings,
    prepare_bench,
    without_number,
)
from headsearch.study.profiling.costs import measure_costs, training_bytes
from headsearch.study.profiling.peak_memory import peak_memory
from headsearch.study.profiling.step_profiler import StepMeter
from headsearch.training.environment import resolve_here

BASES = ("vit_t", "vit_s", "vit_b")
IMAGES = {16: (32, 8, 32), 64: (64, 8, 16), 196: (224, 16, 8)}
"""By tokens: the image's side and the patch's in pixels, and the images of a step."""
HEADS = (1, 4, 16, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    out = arguments.out
    out.parent.mkdir(parents=True, exist_ok=True)
    known = pd.read_csv(out) if out.exists() else pd.DataFrame(columns=["base", "tokens"])
    done = set(zip(known["base"], known["tokens"], strict=True))
    for base, (tokens, (side, patch, batch)) in itertools.product(BASES, IMAGES.items()):
        if (base, tokens) in done:
            continue
        flags = {"base": base, "image_size": side, "patch_size": patch, "batch_size": batch}
        here = resolve_here({**flags, "device": arguments.device})
        # A process keeps what it held at its peak, which the next base's would then lack.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows = pool.apply(_rows, (here, arguments.repeats))
        about = {"base": base, "tokens": tokens, "batch_size": batch}
        known = pd.concat([known, pd.DataFrame([about | row for row in rows])])
        write_table(out, known)
        print(known.tail(len(rows)).to_string(index=False), flush=True)


def _rows(here: RunConfig, repeats: int) -> list[dict[str, float]]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = bench_settings(here, max(HEADS))
    memory = {count: peak_memory(settings, count) for count in HEADS}
    prepared = prepare_bench(settings)
    heads = bench_heads(prepared, max(HEADS))
    different = [head for head in heads if head.name == without_number(head)]
    costs = measure_costs(prepared, different)
    meter = StepMeter(prepared)
    rows = []
    for count in HEADS:
        parts = [costs.heads[without_number(head)] for head in heads[:count]]
        sizes = [part.size for part in parts]
        counted = training_bytes(prepared.objective, costs.base_size, sizes)
        predicted_ms = 1000 * (costs.base + sum(part.seconds for part in parts))
        measured_ms = 1000 * median(meter.joint(heads[:count]) for _ in range(repeats))
        predicted_mb = memory[count].before + counted / 1e6
        rows.append({
            "heads": count,
            "base_gflops": prepared.plan.gflops,
            "predicted_ms": predicted_ms,
            "measured_ms": measured_ms,
            "time_ratio": predicted_ms / measured_ms,
            "predicted_mb": predicted_mb,
            "measured_mb": memory[count].peak,
            "memory_ratio": predicted_mb / memory[count].peak,
        })  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
