"""What benchmarks/scaling.py computes with, counted on this machine.

    python benchmarks/scaling_parts.py

Writes results/scaling/parts.csv (of the base and of 24 heads, with the published training at 224
pixels: numbers trained, FLOPs of a step and bytes that its forward keeps, each for one image with
its two crops), calls.csv (SQL statements and rows of one call of the queue, on SQLite) and
results.csv (bytes that a cohort commits) and decode.csv (CPU time of decoding an image, the only
time here). Takes some minutes on one core.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import timm
import torch
from optuna.storages import RDBStorage, _CachedStorage
from PIL import Image
from sqlalchemy import event
from torch.utils.flop_counter import FlopCounterMode

from headsearch.cluster.engine.claims import Task
from headsearch.cluster.engine.queue import Tasks
from headsearch.cluster.worker import found
from headsearch.data.image.decode import decode
from headsearch.device import mixed_precision
from headsearch.models.space import Candidate, find_space, load_space
from headsearch.study.profiling.benchmark_setup import bench_settings, prepare_bench
from headsearch.study.profiling.step_profiler import StepMeter
from headsearch.study.search import Search
from headsearch.study.setup import SearchSetup, prepare
from headsearch.training.environment import resolve_here

OUT = Path(__file__).parents[1] / "results" / "scaling"
RECIPES = {"vit_s": "hssl-vit-s", "vit_b": "hssl-vit-b"}
SPACES = ("heads.yaml", "published.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", nargs="+", default=["calls", "results", "decode", "parts"])
    asked = parser.parse_args()
    out = asked.out
    out.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    made = {"calls": calls, "results": committed, "decode": decoding, "parts": all_parts}
    for name, rows in made.items():
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
    of_base = _Line(*(counted(prepared, images) for images in (1, 2)))
    rows = [
        {
            "base": base,
            "part": "base",
            "control": False,
            "params_m": of_base.params / 1e6,
            "step_gflops_per_image": 2 * of_base.flops / 1e9,
            "kept_mb_per_image": of_base.kept / 1e6,
            "kept_mb_whatever_the_images": of_base.kept_whatever / 1e6,
            "forward_gflops": prepared.plan.gflops,
        }
    ]
    for head in listed.values():
        beside, prototypes = numbers_beside(prepared, head)
        kept_one, kept_two = (kept_by(head, prepared, crops) for crops in (1, 2))
        # Two crops; student and teacher pass forward, and the backward is two forwards. Beside its
        # blocks, a head's pooled token passes through its projection and the shared prototypes.
        forward = 1e9 * head.gflops + 2 * (beside + prototypes)
        rows.append(
            {
                "base": base,
                "part": head.name,
                "control": head.control,
                "params_m": head.params_m + beside / 1e6,
                "step_gflops_per_image": 2 * 4 * forward / 1e9,
                "kept_mb_per_image": 2 * (kept_two - kept_one) / 1e6,
                "kept_mb_whatever_the_images": (2 * kept_one - kept_two + 2 * beside) / 1e6,
                "forward_gflops": head.gflops,
            }
        )
        print(base, head.name, file=sys.stderr, flush=True)
    return rows


@dataclass(frozen=True)
class _Line:
    """What was counted with one image and with two: so much an image, and so much in any case."""

    one: tuple[float, float, float]
    two: tuple[float, float, float]

    @property
    def params(self) -> float:
        return self.one[0]

    @property
    def flops(self) -> float:
        return self.two[1] - self.one[1]

    @property
    def kept(self) -> float:
        return self.two[2] - self.one[2]

    @property
    def kept_whatever(self) -> float:
        return 2 * self.one[2] - self.two[2]


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Of two products: queries by keys, and that by values; shapes (B, heads, N, D)."""
    batch, heads, tokens, width = query
    return 2 * batch * heads * tokens * key[2] * (width + value[3])


FUSED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
"""What the counter does not know by itself on a CPU."""


def counted(prepared: SearchSetup, images: int) -> tuple[float, float, float]:
    """Numbers, FLOPs of student and teacher forward, and kept bytes, of a step without heads."""
    config = prepared.config.model_copy(update={"batch_size": images})
    meter = StepMeter(replace(prepared, config=config))
    trainer = meter._with(meter._whole, [])
    with FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
        kept = meter._kept(trainer)
    numbers = sum(p.numel() for _, p in trainer.student.base_parameters())
    return numbers, float(counter.get_total_flops()), kept


def numbers_beside(prepared: SearchSetup, head: Candidate) -> tuple[float, float]:
    """What a head trains beside its blocks (norm and projection), and the shared prototypes."""
    with torch.device("meta"):
        shared = prepared.training.objective.base_projection(prepared.plan)
        projection = prepared.training.objective.head_projection(prepared.plan.dim, shared)
    width = prepared.plan.dim
    beside = 2 * width + sum(p.numel() for p in projection.parameters())
    prototypes = sum(p.numel() for n, p in shared.named_parameters() if "prototypes" in n)
    return beside, prototypes


def kept_by(head: Candidate, prepared: SearchSetup, crops: int) -> int:
    """Bytes that a head's blocks keep for the backward, in bfloat16 where a GPU would."""
    dim, grid = prepared.plan.stages[head.feature_index]
    blocks = head.build(dim, grid)
    features = torch.randn(crops, dim, *grid, requires_grad=True)
    given = {t.untyped_storage().data_ptr() for t in (features, *blocks.state_dict().values())}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in given:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        mixed_precision(torch.device("cpu"), True),
    ):
        output = blocks(features)
    del output  # alive until here, so that no storage came twice
    return sum(kept.values())


# images


def decoding(images: int = 200) -> list[dict[str, Any]]:
    """CPU seconds that one JPEG takes, of ImageNet's usual size and about its usual bytes."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 100, 133, generator=generator)
    noise = 0.08 * torch.randn(1, 3, 375, 500, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (375, 500), mode="bicubic")
    pixels = (255 * (smooth + noise).clamp(0, 1))[0].byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    data = file.getvalue()
    decode(data, 224)
    began = time.process_time()
    for _ in range(images):
        decode(data, 224)
    return [{"bytes": len(data), "cpu_ms": 1000 * (time.process_time() - began) / images}]


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
            search.run()
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
