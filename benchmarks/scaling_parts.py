"""Counts on this machine what benchmarks/scaling.py computes with.

    python benchmarks/scaling_parts.py

Writes to results/scaling/:

- parts.csv: of the base and of each of 24 heads, with the published training at 224 pixels, the
  trained parameters, FLOPs of a step and bytes of kept activations, each for one image with its two
  crops;
- results.csv: bytes that a cohort commits to the database;
- decode.csv: CPU time of decoding an image, the only time that is measured here.

Takes some minutes on one core.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import timm
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from headsearch.cluster.jobs import cohort_result
from headsearch.data.image.decode import decode
from headsearch.device import mixed_precision
from headsearch.models.space import Candidate, find_space, load_space
from headsearch.study.profiling.benchmark_setup import bench_settings, prepare_bench
from headsearch.study.profiling.step_profiler import MIDDLE, activation_bytes
from headsearch.study.search import Search
from headsearch.study.setup import SearchSetup, prepare
from headsearch.training.environment import resolve_here

OUT = Path(__file__).parents[1] / "results" / "scaling"
RECIPES = {"vit_s": "hssl-vit-s", "vit_b": "hssl-vit-b"}
SPACES = ("heads.yaml", "published.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", nargs="+", default=["results", "decode", "parts"])
    arguments = parser.parse_args()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tables = {"results": committed, "decode": decoding, "parts": all_parts}
    for name, rows in tables.items():
        if name in arguments.only:
            write(out / f"{name}.csv", rows())


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    pd.DataFrame(rows).to_csv(path, index=False, float_format="%.6g")
    print(pd.DataFrame(rows).to_string(index=False), flush=True)


# base and heads: parts.csv


def all_parts() -> list[dict[str, Any]]:
    return [row for base in RECIPES for row in parts(base)]


def parts(base: str) -> list[dict[str, Any]]:
    """The rows of parts.csv of a base: the base itself, and the 24 heads of both spaces."""
    flags = {"recipe": RECIPES[base], "device": "cpu", "precision": "bf16", "batch_size": 4}
    prepared = prepare_bench(bench_settings(resolve_here(flags), 1))
    listed = {
        head.name: head
        for space in SPACES
        for head in load_space(find_space(space)).on(prepared.plan).enumerate(200).candidates
    }
    timm.layers.set_fused_attn(True)  # as on a GPU: it keeps no attention maps for the backward
    base_line = _Line(*(counted(prepared, images) for images in (1, 2)))
    rows = [
        {
            "base": base,
            "part": "base",
            "control": False,
            "params_m": base_line.params / 1e6,
            "step_gflops_per_image": 2 * base_line.flops / 1e9,
            "kept_mb_per_image": base_line.kept / 1e6,
            "kept_mb_whatever_the_images": base_line.kept_whatever / 1e6,
            "forward_gflops": prepared.plan.gflops,
        }
    ]
    for head in listed.values():
        beside, prototypes = projection_params(prepared, head)
        kept_one, kept_two = (kept_by_blocks(head, prepared, crops) for crops in (1, 2))
        # Two crops, and for each four times the FLOPs of a forward pass: the student's, the
        # teacher's, and a backward pass, which takes two. After the head's blocks, its pooled token
        # passes through the projection and the shared prototypes.
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
    """The cost of a step as a line over its images, through what was counted with one and two.

    Attributes:
        one: parameters, FLOPs and kept bytes, as `counted` with one image.
        two: the same with two images.
    """

    one: tuple[float, float, float]
    two: tuple[float, float, float]

    @property
    def params(self) -> float:
        return self.one[0]

    @property
    def flops(self) -> float:
        """Of each image."""
        return self.two[1] - self.one[1]

    @property
    def kept(self) -> float:
        """Bytes of each image."""
        return self.two[2] - self.one[2]

    @property
    def kept_whatever(self) -> float:
        """Bytes of no image: what is kept for any number of them."""
        return 2 * self.one[2] - self.two[2]


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """FLOPs of two products, queries by keys and weights by values; shapes (B, heads, N, D)."""
    batch, heads, tokens, width = query
    return 2 * batch * heads * tokens * key[2] * (width + value[3])


FUSED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
"""FLOPs of an operation that `FlopCounterMode` does not know on a CPU."""


def counted(prepared: SearchSetup, images: int) -> tuple[float, float, float]:
    """Parameters, FLOPs of the student's and the teacher's forward pass, and bytes of kept
    activations, of a step without heads."""
    config = prepared.config.model_copy(update={"batch_size": images})
    trainer = replace(prepared, config=config).new_trainer(config.coupling)
    side = prepared.plan.image_size
    crops = torch.randn(2 * images, 3, side, side)
    known = (crops, *trainer.student.state_dict().values())
    with FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
        kept = activation_bytes(lambda: trainer.losses(crops, MIDDLE), known)
    params = sum(p.numel() for _, p in trainer.student.base_parameters())
    return params, float(counter.get_total_flops()), kept


def projection_params(prepared: SearchSetup, head: Candidate) -> tuple[float, float]:
    """Parameters of a head beside its blocks (norm and projection), and of shared prototypes."""
    with torch.device("meta"):
        shared = prepared.training.objective.base_projection(prepared.plan)
        projection = prepared.training.objective.head_projection(prepared.plan.dim, shared)
    width = prepared.plan.dim
    beside = 2 * width + sum(p.numel() for p in projection.parameters())
    prototypes = sum(p.numel() for n, p in shared.named_parameters() if "prototypes" in n)
    return beside, prototypes


def kept_by_blocks(head: Candidate, prepared: SearchSetup, crops: int) -> int:
    """Bytes that a head's blocks keep for the backward pass, in bfloat16 where a GPU would."""
    dim, grid = prepared.plan.stages[head.feature_index]
    blocks = head.build(dim, grid)
    features = torch.randn(crops, dim, *grid, requires_grad=True)
    with mixed_precision(torch.device("cpu"), True):
        return activation_bytes(lambda: blocks(features), (features, *blocks.state_dict().values()))


# images: decode.csv


def decoding(images: int = 200) -> list[dict[str, Any]]:
    """The row of decode.csv: a JPEG of ImageNet's usual size in pixels, and about in bytes."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 100, 133, generator=generator)
    noise = 0.08 * torch.randn(1, 3, 375, 500, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (375, 500), mode="bicubic")
    pixels = (255 * (smooth + noise).clamp(0, 1))[0].byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    data = file.getvalue()
    decode(data, 224)  # a warm-up
    began = time.process_time()
    for _ in range(images):
        decode(data, 224)
    return [{"bytes": len(data), "cpu_ms": 1000 * (time.process_time() - began) / images}]


# results.csv


def committed() -> list[dict[str, Any]]:
    """The rows of results.csv: bytes of the results of cohorts of a tiny search."""
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
            size = len(json.dumps(cohort_result(search)))
            rows.append({"heads": heads, "rungs": rungs, "bytes": size})
    return rows


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
