"""Profiles a training step on a GPU: its kernels, its TFLOP/s, and how long the GPU is idle.

    python benchmarks/kernels.py --base vit_s --image-size 224 --batch-size 256 --heads 0 8

Reports for each number of heads: the time of a step, the share of it in which the GPU runs kernels
(`torch.profiler`), its TFLOP/s beside those of a large matrix product in the same process, the
kernels that take most time, and the time of a step with data loading from images in memory.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from headsearch.data.image.store import ImagesInMemory
from headsearch.data.loader import Loader
from headsearch.device import synchronize
from headsearch.study.profiling.benchmark_setup import bench_heads, bench_settings, prepare_bench
from headsearch.study.profiling.step_profiler import MIDDLE, product_rate, seconds_of, step_flops
from headsearch.study.setup import SearchSetup
from headsearch.training.environment import resolve_here
from headsearch.training.setup import attach
from headsearch.training.trainer import Trainer

PROFILED, WITH_DATA = 5, 20
"""Steps that are profiled, and steps with data loading."""
TERA = 1e12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="vit_s")
    parser.add_argument("--space", default="heads.yaml")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--objective", default="simclr")
    parser.add_argument("--heads", type=int, nargs="+", default=[0, 8])
    parser.add_argument("--top", type=int, default=12, help="how many kernels to list")
    parser.add_argument("--graphs", nargs="+", default=["auto"], choices=["auto", "never"],
                        help="whether steps run as CUDA graphs")  # fmt: skip
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--csv", type=Path, help="append the results to this file")
    given = vars(parser.parse_args())
    heads, top, graphs, csv = (given.pop(name) for name in ("heads", "top", "graphs", "csv"))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    prepared = prepare_bench(bench_settings(resolve_here({**given, "device": "cuda"}), max(heads)))
    rate = product_rate(prepared.training.device, autocast=prepared.training.autocast) / TERA
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {prepared.plan}")
    print(f"a large matrix product: {rate:.0f} TFLOP/s")
    for count, cuda_graphs in itertools.product(heads, graphs):
        config = prepared.config.model_copy(update={"cuda_graphs": cuda_graphs})
        row = given | report(replace(prepared, config=config), count, rate, top)
        if csv is not None:
            pd.DataFrame([row]).to_csv(csv, mode="a", header=not csv.exists(), index=False)


def report(prepared: SearchSetup, count: int, rate: float, top: int) -> dict[str, Any]:
    """Profiles a step with `count` heads, prints the results and returns them.

    Args:
        prepared: the set-up of the benchmark.
        count: the number of heads.
        rate: TFLOP/s of a large matrix product.
        top: how many kernels to list.
    """
    torch.cuda.reset_peak_memory_stats()
    config, device, side = prepared.config, prepared.training.device, prepared.plan.image_size
    trainer = prepared.training.new_trainer(config.coupling)
    for head in bench_heads(prepared, count):
        attach(trainer, prepared.training, head)
    crops = torch.randn(2, config.batch_size, 3, side, side).to(device)
    flops = step_flops(prepared.training, bench_heads(prepared, count)) / TERA

    def step() -> None:
        trainer.step(crops, MIDDLE)

    started = time.perf_counter()
    step()
    while not trainer.settled:
        step()
    synchronize(device)
    first_s = time.perf_counter() - started
    seconds = seconds_of(step, device)
    kernels = profiled(step, device)
    data_s = seconds_with_data(trainer, prepared)
    results = {
        "accelerator": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "coupling": config.coupling,
        "recorded": config.cuda_graphs == "auto",
        "heads": count,
        "step_ms": 1000 * seconds,
        "images_per_second": config.batch_size / seconds,
        "with_crops_images_per_second": config.batch_size / data_s,
        "tflops_per_second": flops / seconds,
        "of_one_product": flops / seconds / rate,
        "kernels_share": sum(kernel_s for kernel_s, _ in kernels.values()) / seconds,
        "launches": sum(launches for _, launches in kernels.values()),
        "first_steps_s": first_s,
        "peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9,
    }
    print()
    for name, value in results.items():
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}", end="; ")
    print()
    slowest = sorted(kernels.items(), key=lambda item: -item[1][0])[:top]
    for name, (kernel_s, launches) in slowest:
        print(f"    {1000 * kernel_s:8.2f} ms {launches:6.0f}  {name[:110]}")
    return results


def seconds_with_data(trainer: Trainer, prepared: SearchSetup) -> float:
    """Seconds of a step with data loading, whose images are in memory."""
    config, device, side = prepared.config, prepared.training.device, prepared.plan.image_size
    pixels = torch.randint(0, 256, (4 * config.batch_size, 3, side, side), dtype=torch.uint8)
    images = ImagesInMemory("noise", pixels, None, ())
    longer = config.model_copy(update={"epochs": WITH_DATA})
    started = 0.0
    loader = Loader(images, longer, device)
    for number in range(WITH_DATA):
        views = loader.crops(number)
        if number == 2:  # the first two steps are a warm-up
            synchronize(device)
            started = time.perf_counter()
        trainer.step(views, MIDDLE)
    synchronize(device)
    return (time.perf_counter() - started) / (WITH_DATA - 2)


def profiled(step: Callable[[], None], device: torch.device) -> dict[str, tuple[float, float]]:
    """Seconds and number of launches in a step, by the name of the kernel."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(PROFILED):
            step()
        synchronize(device)
    return {
        event.key: (event.self_device_time_total / 1e6 / PROFILED, event.count / PROFILED)
        for event in profiler.key_averages()
        if event.device_type == DeviceType.CUDA
    }


if __name__ == "__main__":
    main()
