"""How well the tool predicts time and memory: of whole searches, and of single training steps.

    python benchmarks/forecasts.py searches --out results/speed/forecasts.csv [--threads 2]
    python benchmarks/forecasts.py steps --out results/speed/cost_table.csv

`searches` compares what `run --dry-run` predicts with what the same search then takes. Time is that
of the run from its first step (`wall_s`), memory the peak of the process (Linux).

`steps` shows how the time and memory of a step grow with heads, base and tokens. The step with K
heads of the default space is predicted from the base and some heads, measured one by one; other
heads are estimated by a straight line over GFLOPs, and memory is counted. It is measured in this
process, its peak memory in a separate one.

Each case runs in a new process. Rows are written as they come; started again, the benchmark
continues with the cases that are missing.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

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
from headsearch.study.profiling.forecast import forecast
from headsearch.study.profiling.peak_memory import peak_memory
from headsearch.study.profiling.step_profiler import StepProfiler
from headsearch.study.search import Search
from headsearch.study.setup import prepare
from headsearch.training.environment import resolve_here

T = TypeVar("T")

SMALL = {"base": "vit_t", "base_args": "depth=6,embed_dim=96,num_heads=3", "patch_size": 8}
SEARCHES: dict[str, dict[str, Any]] = {
    "the default": {},
    "the default, joint": {"coupling": "joint"},
    "vit_t, 64 pixels, ibot": {
        "base": "vit_t", "image_size": 64, "objective": "ibot", "images": 512, "batch_size": 32,
    },
    "small ViT, longer": {**SMALL, "images": 8000, "epochs": 2, "batch_size": 128},
    "small ViT, two cohorts": {**SMALL, "images": 4000, "epochs": 2, "cohort": 6},
    "vit_s, a share each": {"images_per_head": "share"},
    "convnext_t": {"base": "convnext_t", "images": 256, "epochs": 1, "batch_size": 32, "rungs": 2},
    "resnet18": {"base": "resnet18", "images": 512},
}  # fmt: skip
"""Settings of the searches that are predicted and then run."""

BASES = ("vit_t", "vit_s", "vit_b")
IMAGES = {16: (32, 8, 32), 64: (64, 8, 16), 196: (224, 16, 8)}
"""By tokens: the side of the images and of the patches in pixels, and the images of a step."""
HEADS = (1, 4, 16, 32)
"""The numbers of heads of a step."""
MB = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tables = parser.add_subparsers(required=True)
    searches = tables.add_parser("searches", help="a dry run beside the search itself")
    searches.add_argument("--threads", type=int)
    searches.add_argument("--cases", nargs="+", choices=SEARCHES, default=list(SEARCHES))
    searches.set_defaults(table=table_of_searches)
    steps = tables.add_parser("steps", help="a step's predicted cost beside the measured one")
    steps.add_argument("--device", default="auto")
    steps.add_argument("--repeats", type=int, default=3)
    steps.set_defaults(table=table_of_steps)
    for table in (searches, steps):
        table.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    arguments.table(arguments)


def in_new_process(function: Callable[..., T], *arguments: Any) -> T:
    """What a function returns in a process of its own.

    A process keeps the memory that it held at its peak, which the next case would then lack.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


# whole searches


def table_of_searches(arguments: argparse.Namespace) -> None:
    """Writes a row for each search: predicted and measured time and memory."""
    known = pd.read_csv(arguments.out) if arguments.out.exists() else pd.DataFrame()
    rows: list[dict[str, Any]] = known.to_dict("records")
    done = {row["search"] for row in rows}
    for name in arguments.cases:
        if name in done:
            continue
        settings = {**SEARCHES[name], "threads": arguments.threads}
        settings = {key: value for key, value in settings.items() if value is not None}
        plan, run = (in_new_process(function, settings) for function in (predicted, measured))
        rows.append({
            "search": name,
            "predicted_s": round(plan["seconds"], 1),
            "measured_s": round(run["seconds"], 1),
            "time_ratio": round(plan["seconds"] / run["seconds"], 3),
            "predicted_mb": round(plan["mb"]),
            "measured_mb": round(run["mb"]),
            "memory_ratio": round(plan["mb"] / run["mb"], 3),
        })  # fmt: skip
        print(rows[-1], flush=True)
        write_table(arguments.out, pd.DataFrame(rows))


def predicted(settings: dict[str, Any]) -> dict[str, float]:
    """Seconds and MB of a search, as a dry run predicts them."""
    plan = forecast(prepare(resolve_here(settings)))
    return {"seconds": plan.seconds, "mb": plan.memory / MB}


def measured(settings: dict[str, Any]) -> dict[str, float]:
    """Seconds and MB that the search takes."""
    with tempfile.TemporaryDirectory() as folder:
        search = Search(prepare(resolve_here({**settings, "out": Path(folder) / "run"})))
        search.run()
        seconds = search.state.facts["wall_s"]
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"seconds": seconds, "mb": int(status["VmHWM"].split()[0]) * 1024 / MB}


# single steps


def table_of_steps(arguments: argparse.Namespace) -> None:
    """Writes a row for each base, number of tokens and number of heads."""
    out = arguments.out
    known = pd.read_csv(out) if out.exists() else pd.DataFrame(columns=["base", "tokens"])
    done = set(zip(known["base"], known["tokens"], strict=True))
    for base, (tokens, (side, patch, batch)) in itertools.product(BASES, IMAGES.items()):
        if (base, tokens) in done:
            continue
        flags = {"base": base, "image_size": side, "patch_size": patch, "batch_size": batch}
        config = resolve_here({**flags, "device": arguments.device})
        rows = in_new_process(rows_of_steps, config, arguments.repeats)
        case = {"base": base, "tokens": tokens, "batch_size": batch}
        known = pd.concat([known, pd.DataFrame([case | row for row in rows])])
        write_table(out, known)
        print(known.tail(len(rows)).to_string(index=False), flush=True)


def rows_of_steps(config: RunConfig, repeats: int) -> list[dict[str, float]]:
    """A row for each number of heads: predicted and measured cost of a step."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = bench_settings(config, max(HEADS))
    memory = {count: peak_memory(settings, count) for count in HEADS}
    setup = prepare_bench(settings)
    heads = bench_heads(setup, max(HEADS))
    different = [head for head in heads if head.name == without_number(head)]
    costs = measure_costs(setup, different)
    profiler = StepProfiler(setup)
    rows = []
    for count in HEADS:
        parts = [costs.heads[without_number(head)] for head in heads[:count]]
        sizes = [part.size for part in parts]
        counted = training_bytes(setup.objective, costs.base_size, sizes)
        predicted_ms = 1000 * (costs.base + sum(part.seconds for part in parts))
        measured_ms = 1000 * median(profiler.joint(heads[:count]) for _ in range(repeats))
        predicted_mb = memory[count].before + counted / MB
        rows.append({
            "heads": count,
            "base_gflops": setup.plan.gflops,
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
