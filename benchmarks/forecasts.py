"""What `run --dry-run` predicts, beside what the same search then takes: time and memory.

    python benchmarks/forecasts.py --out results/speed/forecasts.csv [--threads 2]

Each prediction and each search in a process of its own, one after the other. Time is that of the
run from its first step on (`wall_s`), memory the most that the process held (Linux). Writes rows as
they come, and goes on with the rest where it was stopped.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from pathlib import Path
from typing import Any

import optuna
import pandas as pd

from headsearch.runs.tables import write_table
from headsearch.study.profiling.forecast import forecast
from headsearch.study.search import Search
from headsearch.study.setup import prepare
from headsearch.training.environment import resolve_here

SMALL = {"base": "vit_t", "base_args": "depth=6,embed_dim=96,num_heads=3", "patch_size": 8}
CASES: dict[str, dict[str, Any]] = {
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


def predicted(settings: dict[str, Any]) -> dict[str, float]:
    found = forecast(prepare(resolve_here(settings)))
    return {"seconds": found.seconds, "mb": found.memory / 1e6}


def measured(settings: dict[str, Any]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        search = Search(prepare(resolve_here({**settings, "out": Path(folder) / "run"})))
        search.run()
        seconds = search.state.facts["wall_s"]
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"seconds": seconds, "mb": int(status["VmHWM"].split()[0]) * 1024 / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known = pd.read_csv(arguments.out) if arguments.out.exists() else pd.DataFrame()
    rows: list[dict[str, Any]] = known.to_dict("records")
    done = {row["search"] for row in rows}
    for name in arguments.cases:
        if name in done:
            continue
        settings = {**CASES[name], "threads": arguments.threads}
        settings = {key: value for key, value in settings.items() if value is not None}
        found = []
        for function in (predicted, measured):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found.append(pool.apply(function, (settings,)))
        plan, run = found
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


if __name__ == "__main__":
    main()
