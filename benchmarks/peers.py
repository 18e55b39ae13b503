"""headsearch's step, no head attached, against other libraries and plain loops, in one run.

    pip install -e '.[benchmark]'
    python benchmarks/peers.py [--json peers.json]

The same model, crops, batch, precision and threads for all, each in a process of its own. They take
turns, in changing order; medians are printed, in images (not crops) a second:

- headsearch: its trainer as a run uses it;
- plain: the step as papers and documentation write it (`plain_loops.py`);
- lightly, stable-pretraining: their modules in the loops that they document;
- tuned: headsearch's own update, written for speed by hand.

Peers use timm's attention as it comes, PyTorch's fused one; headsearch and the tuned loop use plain
products, which are faster on a CPU (`attention.py`), and memory that they freed. With `--attention
plain` peers use plain products too. A second table is about the step with each one's own
augmentation, in the last of the precisions. What is not installed is left out and named. On a GPU
(`--device cuda --bases "vit_s at 224" --precisions bf16 --no-data`) all have the fused attention,
and stable-pretraining, whose trainer sees to the device itself, does not take part.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import statistics
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from contestants import BASES, CONTESTANTS, MOMENT, Task, ground_of, serve
from plain_loops import Setting

from headsearch.data.loader import Loader
from headsearch.training.objectives.dino import teacher_temperature
from headsearch.training.schedules import learning_rate, teacher_momentum

OBJECTIVES = ("dino", "simclr", "mocov3")
OBJECTIVES_OF = {"small": OBJECTIVES, "vit_s": ("simclr",), "vit_s at 224": ("simclr", "dino")}
"""Where none are named: what makes the whole take about five minutes."""
PRECISIONS = ("float32", "bf16")
HEADSEARCH, TUNED = "headsearch", "tuned"
PACKAGES = {"lightly": "lightly", "stable-pretraining": "stable_pretraining"}
"""What must be installed for some to take part."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bases", nargs="+", default=["small", "vit_s"], choices=BASES)
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES,
                        help="default: all of the small base, simclr of ViT-S")  # fmt: skip
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--attention", choices=["fused", "plain"], default="fused",
                        help="of the peers' models")  # fmt: skip
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-data", action="store_true", help="without the second table")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall",
                        help="cpu: a process's own time without its workers', steadier "
                        "beside other work")  # fmt: skip
    parser.add_argument("--json", type=Path, help="write all that was measured to this file")
    arguments = parser.parse_args()
    found: dict[str, Any] = {"machine": machine(arguments), "step": [], "augmented": []}
    print(", ".join(f"{name} {value}" for name, value in found["machine"].items()))
    ends: dict[str, Connection] = {}
    for name in CONTESTANTS:
        if installed(name):  # with a worker or without is one process
            ends[name] = ends.get(library(name)) or started(arguments)
    cases = [
        (base, objective, precision)
        for base in arguments.bases
        for objective in arguments.objectives or OBJECTIVES_OF[base]
        for precision in arguments.precisions
    ]
    try:
        print("\nimages a second, the step alone on the same crops")
        for case in cases:
            found["step"].append(compare(ends, case, arguments, with_data=False))
        if not arguments.no_data:
            print("\nimages a second, the step with each one's own augmentation")
        for case in cases:
            if case[2] == arguments.precisions[-1] and not arguments.no_data:
                found["augmented"].append(compare(ends, case, arguments, with_data=True))
    finally:
        for end in ends.values():
            end.close()
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def started(arguments: argparse.Namespace) -> Connection:
    """This end of the line to a new process, which ends when the line is closed."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    given = (arguments.threads, arguments.clock, theirs)
    spawn.Process(target=serve, args=given).start()
    theirs.close()
    return ours


def compare(
    ends: dict[str, Connection],
    case: tuple[str, str, str],
    arguments: argparse.Namespace,
    *,
    with_data: bool,
) -> dict[str, Any]:
    """Has all take turns at a case, and prints and returns what it came to."""
    task = task_of(case, arguments, with_data=with_data)
    turns: dict[str, list[tuple[float, float]]] = {
        name: [] for name, end in ends.items() if asked(name, end, task)
    }
    order = list(turns)
    for repeat in range(arguments.repeats + 1):
        for name in order if repeat % 2 else reversed(order):
            taken = asked(name, ends[name], None)
            if repeat:  # the first one warms up
                turns[name].append(taken)
    return report(case, task.batch_size, turns)


def asked(name: str, end: Connection, what: Task | None) -> Any:
    """A contestant's answer."""
    end.send((name, what))
    answer = end.recv()
    if isinstance(answer, str):
        raise RuntimeError(f"{name} failed:\n{answer}")
    return answer


def task_of(case: tuple[str, str, str], arguments: argparse.Namespace, *, with_data: bool) -> Task:
    """A case, and what others need in order to do what headsearch does at `MOMENT`."""
    base, objective, precision = case
    setup = ground_of(base, objective, precision, arguments.threads, arguments.device)
    images, config = setup.data.train, setup.config
    setting = Setting(
        objective,
        lr=learning_rate(MOMENT, config.lr),
        weight_decay=config.weight_decay,
        momentum=teacher_momentum(MOMENT),
        temperature=teacher_temperature(MOMENT),
        autocast=setup.autocast,
        device=str(setup.device),
    )
    return Task(
        base,
        precision,
        setting,
        setup.plan.timm_name,
        dict(setup.plan.arguments),
        fused_attention=arguments.attention == "fused",
        batch_size=config.batch_size,
        crops=None if with_data else Loader(images, config, setup.device).crops(0).cpu(),
        pixels=images.batch(torch.arange(len(images))).permute(0, 2, 3, 1).numpy(),
    )


def report(
    case: tuple[str, str, str], batch_size: int, turns: dict[str, list[tuple[float, float]]]
) -> dict[str, Any]:
    seconds = {name: [taken for taken, _ in those] for name, those in turns.items()}
    middle = {name: statistics.median(taken) for name, taken in seconds.items()}
    waiting = {
        name: statistics.median(waited / taken for taken, waited in those)
        for name, those in turns.items()
    }
    peers = [taken for name, taken in middle.items() if name not in (HEADSEARCH, TUNED)]
    ratios = {
        "over_fastest_peer": min(peers) / middle[HEADSEARCH] if peers else None,
        "over_tuned": middle[TUNED] / middle[HEADSEARCH] if TUNED in middle else None,
    }
    base, objective, precision = case
    shown = ", ".join(
        f"{ratio:.2f} {name.replace('_', ' ')}" for name, ratio in ratios.items() if ratio
    )
    print(f"{base}, {objective}, {precision}, batch {batch_size}: headsearch {shown}")
    for name, taken in middle.items():
        spread = (max(seconds[name]) - min(seconds[name])) / taken
        waits = f", {waiting[name]:.1%} waiting for data" if waiting[name] else ""
        print(f"    {name:20s}{batch_size / taken:8.1f}  (spread {spread:.0%}{waits})", flush=True)
    return {
        "base": base,
        "objective": objective,
        "precision": precision,
        "batch_size": batch_size,
        **ratios,
        "images_per_second": {name: batch_size / taken for name, taken in middle.items()},
        "waiting_for_data": {name: share for name, share in waiting.items() if share},
        "seconds": seconds,
    }


def library(contestant: str) -> str:
    return contestant.partition(",")[0]


def installed(contestant: str) -> bool:
    package = PACKAGES.get(library(contestant))
    return package is None or importlib.util.find_spec(package) is not None


def device_name(device: str) -> str:
    return device if device == "cpu" else torch.cuda.get_device_name(device)


def machine(arguments: argparse.Namespace) -> dict[str, Any]:
    """Where and how it is measured; the load tells whether anything else is running."""
    absent = sorted({package for name, package in PACKAGES.items() if not installed(name)})
    packages = sorted({"torch", "timm", *PACKAGES.values()} - set(absent))
    return {
        "cores": os.cpu_count(),
        "device": device_name(arguments.device),
        "threads": arguments.threads,
        "load": round(os.getloadavg()[0], 1),
        "clock": arguments.clock,
        "attention of peers": arguments.attention,
        **{name: version(name) for name in packages},
        "left out": ", ".join(absent) or "nothing",
    }


if __name__ == "__main__":
    main()
