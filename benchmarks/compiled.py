"""Compares a training step with and without --compile, in turn in one process.

    python benchmarks/compiled.py [--threads 2]

Prints the median milliseconds of a step of the base without heads, and how much longer the first
step takes, in which the base is compiled.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from statistics import median
from typing import Any

import torch

from headsearch.device import synchronize
from headsearch.study.profiling.benchmark_setup import bench_settings
from headsearch.study.profiling.step_profiler import MIDDLE
from headsearch.training.environment import resolve_here
from headsearch.training.setup import prepare_training

SMALL = {"base": "vit_t", "base_args": "depth=6,embed_dim=96,num_heads=3", "patch_size": 8}
CASES: dict[str, dict[str, Any]] = {
    "small ViT, batch 128": {**SMALL, "batch_size": 128},
    "vit_s, batch 64": {"base": "vit_s", "batch_size": 64},
    "convnext_t, batch 64": {"base": "convnext_t", "batch_size": 64},
}
REPEATS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--objective", default="simclr")
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    for name, case in CASES.items():
        settings = bench_settings(resolve_here({"image_size": 32, **case, **given}), 1)
        setup = prepare_training(settings)
        trainers = {}
        for compiled in (False, True):
            config = setup.config.model_copy(update={"compile": compiled})
            trainers[compiled] = replace(setup, config=config).new_trainer("observe")
        side, batch = setup.plan.image_size, setup.config.batch_size
        crops = torch.randn(2, batch, 3, side, side).to(setup.device)
        seconds: dict[bool, list[float]] = {False: [], True: []}
        first = {}
        for repeat in range(REPEATS + 1):
            for compiled, trainer in trainers.items():
                started = time.perf_counter()
                trainer.step(crops, MIDDLE)
                synchronize(setup.device)
                passed = time.perf_counter() - started
                if repeat:
                    seconds[compiled].append(passed)
                else:
                    first[compiled] = passed
        plain, compiled_s = median(seconds[False]), median(seconds[True])
        more = first[True] - first[False]
        print(
            f"{name}: {1000 * plain:.0f} ms, compiled {1000 * compiled_s:.0f} ms: "
            f"{compiled_s / plain:.2f}; the first step takes {more:.0f} s more"
        )


if __name__ == "__main__":
    main()
