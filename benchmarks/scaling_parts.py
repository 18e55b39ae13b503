"""What benchmarks/scaling.py computes with: counted on this machine, and no time among it.

    python benchmarks/scaling_parts.py

Writes results/scaling/parts.csv (of the base and of 24 heads, with the published training at 224
pixels: numbers trained, FLOPs of a step and bytes that its forward keeps, each for one image with
its two crops), calls.csv (SQL statements and rows of one call of the queue, on SQLite) and
results.csv (bytes that a cohort commits). Takes some minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import timm
import torch
from optuna.storages import RDBStorage, _CachedStorage
from sqlalchemy import event
from torch.utils.flop_counter import FlopCounterMode

from headsearch.bench_case import bench_settings, prepare_bench
from headsearch.candidate import Candidate
from headsearch.machine import resolve_here
from headsearch.preparation import Prepared, prepare
from headsearch.space import find_space, load_space
from headsearch.step_meter import StepMeter
from headsearch.study import Search
from headsearch.tasks import Task, Tasks
from headsearch.train import Trainer
from headsearch.worker import found

OUT = Path(__file__).parents[1] / "results" / "scaling"
RECIPES = {"vit_s": "hssl-vit-s", "vit_b": "hssl-vit-b"}
SPACES = ("heads.yaml", "published.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", nargs="+", default=["calls", "results", "parts"])
    asked = parser.parse_args()
    out = asked.out
    out.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for name, rows in {"calls": calls, "results": committed, "parts": all_parts}.items():
        if name in asked.only:
            write(out / f"{name}.csv", rows())


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    pd.DataFrame(rows).to_csv(path, index=False, float_format="%.6g")
    print(pd.DataFrame(rows).to_string(index=False), flush=True)


# base and heads


def all_parts() -> list[dict[str, Any]]:
    return [row for base in RECIPES for row in parts(base)]


def parts(base: str) -> list[dict[str, Any]]:
    """The base and the heads of both spaces: 24 in all."""
    flags = {"recipe": RECIPES[base], "device": "cpu", "precision": "bf16", "batch_size": 4}
    prepared = prepare_bench(bench_settings(resolve_here(flags), 1))
    listed = {
        head.name: head
        for space in SPACES
        for head in load_space(find_space(space)).on(prepared.plan).enumerate(200).candidates
    }
    timm.layers.set_fused_attn(True)  # as on a GPU, where it keeps no map of attention
    one, two = (counted(prepared, list(listed.values()), images) for images in (1, 2))
    forward = {"": prepared.plan.gflops} | {name: head.gflops for name, head in listed.items()}
    return [
        {
            "base": base,
            "part": name or "base",
            "control": bool(name) and listed[name].control,
            "params_m": one[name][0] / 1e6,
            # Student and teacher pass forward; the backward is twice the student's forward.
            "step_gflops_per_image": 2 * (two[name][1] - one[name][1]) / 1e9,
            "kept_mb_per_image": (two[name][2] - one[name][2]) / 1e6,
            "kept_mb_whatever_the_images": (2 * one[name][2] - two[name][2]) / 1e6,
            "forward_gflops": forward[name],
        }
        for name in one
    ]


def counted(
    prepared: Prepared, heads: list[Candidate], images: int
) -> dict[str, tuple[float, float, float]]:
    """Numbers, FLOPs of the forwards and kept bytes: of the base, and of what each head adds."""
    config = prepared.config.model_copy(update={"batch_size": images})
    meter = StepMeter(replace(prepared, config=config))

    def of(trainer: Trainer) -> tuple[float, float]:
        with FlopCounterMode(display=False) as counter:
            kept = meter._kept(trainer)
        return float(counter.get_total_flops()), kept

    base = sum(p.numel() for _, p in meter._with(meter._whole, []).student.base_parameters())
    found = {"": (base, *of(meter._whole))}
    flops, kept = of(meter._with(meter._given, []))
    for head in heads:
        trainer = meter._with(meter._given, [head])
        numbers = sum(p.numel() for p in trainer.student.heads[head.name].parameters())
        with_head = of(trainer)
        found[head.name] = (numbers, with_head[0] - flops, with_head[1] - kept)
    return found


# the queue


def calls() -> list[dict[str, Any]]:
    """Statements and rows of each call, with so many tasks unfinished."""
    rows = []
    for unfinished in (10, 100, 1000):
        with tempfile.TemporaryDirectory() as folder:
            backend = RDBStorage(f"sqlite:///{folder}/study.db")
            rows += _calls_on(backend, unfinished)
            backend.engine.dispose()
    return rows


def _calls_on(backend: RDBStorage, unfinished: int) -> list[dict[str, Any]]:
    payload = {"candidates": [{"name": f"head {n}", "params": {"depth": n}} for n in range(24)]}
    tasks = [Task(f"cohort {n}", "cohort", payload) for n in range(unfinished)]
    queue = Tasks.create(_CachedStorage(backend), "study", tasks)
    seen: Counter[str] = Counter()

    @event.listens_for(backend.engine, "before_cursor_execute")
    def _(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        seen["statements"] += 1

    rows = []

    def note(call: str, work: Callable[[], Any]) -> Any:
        seen.clear()
        result = work()
        rows.append({"unfinished": unfinished, "call": call, "statements": seen["statements"]})
        return result

    claim = note("claim", lambda: queue.claim("a worker"))
    note("beat", claim.beat)
    note("look", queue.look)
    note("unfinished", queue.unfinished)
    note("read of one trial", lambda: queue.storage.get_trial(claim._trial))
    note("commit of one piece", lambda: claim.commit({"rows": []}))
    note("read of all trials", queue._read)
    bytes_of = [len(json.dumps(t.user_attrs)) for t in queue._read() if not t.state.is_finished()]
    note("attribute", lambda: queue.storage.set_trial_user_attr(2, "an attribute", 1))
    for row in rows:
        row["bytes_of_a_task"] = sum(bytes_of) / len(bytes_of)
    return rows


def committed() -> list[dict[str, Any]]:
    """Bytes that cohorts of a tiny search commit, as they stand in the storage."""
    rows = []
    for heads, rungs in ((6, 2), (12, 2), (12, 8)):
        with tempfile.TemporaryDirectory() as folder:
            settings = {
                "base": "test_vit", "image_size": 16, "patch_size": 4, "images": 64, "epochs": 8,
                "batch_size": 64, "rungs": rungs, "eval_images": 64, "bank_images": 64,
                "trials": heads, "cohort": heads, "pruner": "none", "device": "cpu",
                "out": Path(folder) / "run",
            }  # fmt: skip
            search = Search(prepare(resolve_here(settings)))
            for _ in search.run():
                pass
            storage = optuna.storages.InMemoryStorage()
            queue = Tasks.create(storage, "study", [Task("cohort 1", "cohort")])
            claim = queue.claim("a worker")
            assert claim is not None
            before = len(json.dumps(storage.get_trial(claim._trial).user_attrs))
            claim.commit(found(search))
            after = len(json.dumps(storage.get_trial(claim._trial).user_attrs))
            rows.append({"heads": heads, "rungs": rungs, "bytes": after - before})
    return rows


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
