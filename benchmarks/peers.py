"""Compares the speed of headsearch's training step with other libraries and plain loops.

    pip install -e '.[benchmark]'
    python benchmarks/peers.py [--json peers.json]

All contestants train the same model without heads on the same crops, with the same batch size,
precision and threads, each in a process of its own. They take turns, in changing order; what is
printed is the median of images (not crops) a second:

- headsearch: its trainer, as a run uses it;
- plain: the step as papers and documentation write it (`plain_loops.py`);
- lightly, stable-pretraining: their modules in the loops that they document;
- tuned: headsearch's update, written by hand for speed.

Peers use timm's default, PyTorch's fused attention. headsearch and the tuned loop use plain matrix
products, which are faster on a CPU (`attention.py`), and reuse memory that they freed. With
`--attention plain` peers use plain products too. A second table compares the step with data
loading, where each contestant uses its own augmentation, in the last of the precisions. Libraries
that are not installed are left out and named. On a GPU (`--device cuda --bases "vit_s at 224"
--precisions bf16 --no-data`) all use fused attention, and stable-pretraining does not take part,
because its trainer chooses the device itself.
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
from contestants import BASES, CONTESTANTS, MOMENT, Task, headsearch_setup, serve
from plain_loops import Setting

from headsearch.data.loader import Loader
from headsearch.training.objectives.dino import teacher_temperature
from headsearch.training.schedules import learning_rate, teacher_momentum

OBJECTIVES = ("dino", "simclr", "mocov3")
OBJECTIVES_OF = {"small": OBJECTIVES, "vit_s": ("simclr",), "vit_s at 224": ("simclr", "dino")}
"""By base, where `--objectives` names none: so few that all takes about five minutes."""
PRECISIONS = ("float32", "bf16")
HEADSEARCH, TUNED = "headsearch", "tuned"
PACKAGES = {"lightly": "lightly", "stable-pretraining": "stable_pretraining"}
"""The packages that must be installed for a contestant to take part."""


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
    results: dict[str, Any] = {"machine": machine(arguments), "step": [], "augmented": []}
    print(", ".join(f"{name} {value}" for name, value in results["machine"].items()))
    connections: dict[str, Connection] = {}
    for name in CONTESTANTS:
        if installed(name):  # lightly with a worker and without share one process
            connections[name] = connections.get(library(name)) or started(arguments)
    cases = [
        (base, objective, precision)
        for base in arguments.bases
        for objective in arguments.objectives or OBJECTIVES_OF[base]
        for precision in arguments.precisions
    ]
    try:
        print("\nimages a second, the step alone on the same crops")
        for case in cases:
            results["step"].append(compare(connections, case, arguments, with_data=False))
        if not arguments.no_data:
            print("\nimages a second, the step with each one's own augmentation")
        for case in cases:
            if case[2] == arguments.precisions[-1] and not arguments.no_data:
                results["augmented"].append(compare(connections, case, arguments, with_data=True))
    finally:
        for connection in connections.values():
            connection.close()
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


def started(arguments: argparse.Namespace) -> Connection:
    """A connection to a new process that serves contestants, and ends when it is closed."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    given = (arguments.threads, arguments.clock, theirs)
    spawn.Process(target=serve, args=given).start()
    theirs.close()
    return ours


def compare(
    connections: dict[str, Connection],
    case: tuple[str, str, str],
    arguments: argparse.Namespace,
    *,
    with_data: bool,
) -> dict[str, Any]:
    """Lets all contestants take turns at a case; prints and returns the results."""
    task = task_of(case, arguments, with_data=with_data)
    turns: dict[str, list[tuple[float, float]]] = {
        name: [] for name, connection in connections.items() if asked(name, connection, task)
    }
    order = list(turns)
    for repeat in range(arguments.repeats + 1):
        for name in order if repeat % 2 else reversed(order):
            taken = asked(name, connections[name], None)
            if repeat:  # the first turn is a warm-up
                turns[name].append(taken)
    return report(case, task.batch_size, turns)


def asked(name: str, connection: Connection, task: Task | None) -> Any:
    """A contestant's answer to a task, or, without one, to a turn (see `serve`).

    Raises:
        RuntimeError: the contestant failed.
    """
    connection.send((name, task))
    answer = connection.recv()
    if isinstance(answer, str):
        raise RuntimeError(f"{name} failed:\n{answer}")
    return answer


def task_of(case: tuple[str, str, str], arguments: argparse.Namespace, *, with_data: bool) -> Task:
    """The task of a case, with headsearch's hyperparameters at `MOMENT` for the others."""
    base, objective, precision = case
    setup = headsearch_setup(base, objective, precision, arguments.threads, arguments.device)
    images, config = setup.data.train, setup.config
    setting = Setting(
        objective,
        lr=learning_rate(MOMENT, config.peak_lr),
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
    """Prints the speed of all contestants in a case, and returns it.

    Args:
        case: base, objective and precision.
        batch_size: images of a step.
        turns: by contestant, for each turn the seconds of a step and those spent waiting for data.
    """
    seconds = {name: [taken for taken, _ in own_turns] for name, own_turns in turns.items()}
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    waiting = {
        name: statistics.median(waited / taken for taken, waited in own_turns)
        for name, own_turns in turns.items()
    }
    peers = [taken for name, taken in medians.items() if name not in (HEADSEARCH, TUNED)]
    ratios = {
        "over_fastest_peer": min(peers) / medians[HEADSEARCH] if peers else None,
        "over_tuned": medians[TUNED] / medians[HEADSEARCH] if TUNED in medians else None,
    }
    base, objective, precision = case
    shown = ", ".join(
        f"{ratio:.2f} {name.replace('_', ' ')}" for name, ratio in ratios.items() if ratio
    )
    print(f"{base}, {objective}, {precision}, batch {batch_size}: headsearch {shown}")
    for name, taken in medians.items():
        spread = (max(seconds[name]) - min(seconds[name])) / taken
        waits = f", {waiting[name]:.1%} waiting for data" if waiting[name] else ""
        print(f"    {name:20s}{batch_size / taken:8.1f}  (spread {spread:.0%}{waits})", flush=True)
    return {
        "base": base,
        "objective": objective,
        "precision": precision,
        "batch_size": batch_size,
        **ratios,
        "images_per_second": {name: batch_size / taken for name, taken in medians.items()},
        "waiting_for_data": {name: share for name, share in waiting.items() if share},
        "seconds": seconds,
    }


def library(contestant: str) -> str:
    """The library of a contestant: `lightly` for `lightly, 1 worker`."""
    return contestant.partition(",")[0]


def installed(contestant: str) -> bool:
    package = PACKAGES.get(library(contestant))
    return package is None or importlib.util.find_spec(package) is not None


def device_name(device: str) -> str:
    return device if device == "cpu" else torch.cuda.get_device_name(device)


def machine(arguments: argparse.Namespace) -> dict[str, Any]:
    """Where and how it is measured; the load shows whether other work is running."""
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
