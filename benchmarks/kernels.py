"""Where the time of a step goes on an accelerator: what it computes, and how long it stands idle.

    python benchmarks/kernels.py --base vit_s --image-size 224 --batch-size 256 --heads 0 8

For each number of heads: the time of a step, the share of it in which the device computes
(`torch.profiler`), launches a step, and the kernels that take most; then the same steps with their
crops, made of images that lie in memory.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from dataclasses import replace

import optuna
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from headsearch.bench_case import bench_heads, bench_settings, prepare_bench
from headsearch.data.images import ImagesInMemory
from headsearch.feeding import batches
from headsearch.machine import resolve_here, synchronize
from headsearch.preparation import Prepared
from headsearch.solo import attach
from headsearch.step_meter import MIDDLE, seconds_of

PROFILED, WITH_DATA = 5, 20
"""Steps."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="vit_s")
    parser.add_argument("--space", default="heads.yaml")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--objective", default="simclr")
    parser.add_argument("--heads", type=int, nargs="+", default=[0, 8])
    parser.add_argument("--top", type=int, default=12, help="kernels that are listed")
    parser.add_argument("--graphs", nargs="+", default=["yes"], choices=["yes", "no"],
                        help="whether steps are recorded and replayed")  # fmt: skip
    parser.add_argument("--cudnn-benchmark", action="store_true")
    parser.add_argument("--compile", action="store_true")
    given = vars(parser.parse_args())
    heads, top, graphs = given.pop("heads"), given.pop("top"), given.pop("graphs")
    torch.backends.cudnn.benchmark = given.pop("cudnn_benchmark")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    prepared = prepare_bench(bench_settings(resolve_here({**given, "device": "cuda"}), max(heads)))
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {prepared.plan}")
    for count, recorded in itertools.product(heads, graphs):
        config = prepared.config.model_copy(update={"cuda_graphs": recorded == "yes"})
        report(replace(prepared, config=config), count, top)


def report(prepared: Prepared, count: int, top: int) -> None:
    torch.cuda.reset_peak_memory_stats()
    config, device, side = prepared.config, prepared.device, prepared.plan.image_size
    trainer = prepared.new_trainer(config.coupling)
    for head in bench_heads(prepared, count):
        attach(trainer, prepared, head)
    crops = torch.randn(2, config.batch_size, 3, side, side).to(device)

    def step() -> None:
        trainer.step(crops, MIDDLE)

    started = time.perf_counter()
    step()
    while not trainer.settled:
        step()
    synchronize(device)
    first = time.perf_counter() - started
    seconds = seconds_of(step, device)
    kernels = profiled(step, device)
    busy = sum(taken for taken, _ in kernels.values())
    launches = sum(number for _, number in kernels.values())
    print(
        f"\n{count} heads, {'recorded' if config.cuda_graphs else 'one by one'}: "
        f"{1000 * seconds:.1f} ms a step, {config.batch_size / seconds:.0f} images a second; "
        f"kernels {1000 * busy:.1f} ms ({busy / seconds:.0%}), {launches:.0f} launches; "
        f"the first steps took {first:.1f} s; "
        f"{torch.cuda.max_memory_allocated() / 1e9:.2f} GB"
    )
    for name, (taken, number) in sorted(kernels.items(), key=lambda item: -item[1][0])[:top]:
        print(f"    {1000 * taken:8.2f} ms {number:6.0f}  {name[:110]}")
    pixels = torch.randint(0, 256, (4 * config.batch_size, 3, side, side), dtype=torch.uint8)
    images = ImagesInMemory("noise", pixels, None, ())
    longer = config.model_copy(update={"epochs": WITH_DATA})
    begun = 0.0
    for number, views in enumerate(batches(images, longer, range(WITH_DATA), device)):
        if number == 2:
            synchronize(device)
            begun = time.perf_counter()
        trainer.step(views, MIDDLE)
    synchronize(device)
    with_data = (time.perf_counter() - begun) / (WITH_DATA - 2)
    rate = config.batch_size / with_data
    print(f"    with crops made: {1000 * with_data:.1f} ms, {rate:.0f} images a second")


def profiled(step: Callable[[], None], device: torch.device) -> dict[str, tuple[float, float]]:
    """By kernel: seconds and launches of a step."""
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(PROFILED):
            step()
        synchronize(device)
    return {
        event.key: (event.self_device_time_total / 1e6 / PROFILED, event.count / PROFILED)
        for event in found.key_averages()
        if event.device_type == DeviceType.CUDA
    }


if __name__ == "__main__":
    main()
