"""Computes, without a GPU, what a search costs at the scale of ImageNet.

    python benchmarks/scaling_parts.py    # counts the parts on this machine
    python benchmarks/scaling.py          # computes; writes tables to results/scaling/
    python docs/make_scaling_page.py      # updates docs/scaling.md and its picture

Counted: parameters, FLOPs and kept activations of base and heads. From data sheets: the
peak rates of accelerators and links. Assumed, and marked as such: the share of those rates that is
reached. No time is measured on a GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from headsearch.config.presets import PRESETS
from headsearch.study.pruners import kept

OUT = Path(__file__).parents[1] / "results" / "scaling"

IMAGES = 1_281_167
"""Images of ImageNet-1K's training split (Russakovsky et al. 2015, arXiv 1409.0575, table 2)."""
EPOCHS, RUNGS = PRESETS["full"]["epochs"], PRESETS["full"]["rungs"]
SCORED = PRESETS["full"]["eval_images"] + PRESETS["full"]["bank_images"]
"""Images that a rung is scored on: queries and bank."""
BANK = PRESETS["full"]["bank_images"]
CLASSES = 1000
PROBE_PASSES = 250
"""Assumed evaluations of the linear probe's loss; it stops after 200 iterations at the latest."""
ETA, MIN_KEEP = 2.0, 3
"""Of the rung pruner, by default."""

NODE = 8
"""GPUs of a node."""
GPUS = (8, 16, 32, 64, 128, 256, 512)
BATCHES = (256, 1024, 4096)
ROOM = 0.9
"""Assumed share of a GPU's memory that a step may take."""
LEAST_IMAGES = 16
"""Assumed number of images that a GPU needs at least to be busy."""
LINK_SHARE = 0.7
"""Assumed share of a link's peak that an all-reduce reaches."""
UTILISATION = (0.07, 0.2, 0.35)
"""Assumed share of the peak FLOPs a second: low, usual, high. Others measured a ViT-S of 22M
parameters on an H100 at 0.05 to 0.07 in eager PyTorch and 0.16 to 0.23 compiled
(https://nvidia-bionemo.github.io/nvSubquadratic/benchmarks.html)."""
UPDATE_NUMBERS = 12
"""Numbers that clipping, AdamW and the teacher's update read or write for each parameter."""
HELD, TEMPORARY = 4, 1
"""Numbers held for each parameter where there is a teacher, and the temporary one beside them
(headsearch/study/profiling/costs.py)."""
EMBEDDING = 256
"""Width of the embeddings that contrastive objectives compare: the published bottleneck's."""
FLOAT = 4
"""Bytes of a float32."""


@dataclass(frozen=True)
class Gpu:
    """The figures of a data sheet.

    Attributes:
        name: of the GPU.
        bf16: FLOPs a second in bfloat16, dense.
        float64: FLOPs a second in float64.
        memory: bytes.
        memory_rate: bytes a second.
        nvlink: bytes a second, one way.
        nics: bytes a second of all network cards of a node of 8, one way.
    """

    name: str
    bf16: float
    float64: float
    memory: float
    memory_rate: float
    nvlink: float
    nics: float


H100 = Gpu("H100 SXM", 989.4e12, 67e12, 80e9, 3.35e12, 450e9, 8 * 50e9)
"""https://resources.nvidia.com/en-us-gpu-resources/h100-datasheet-24306 ; the node is a DGX H100
(https://docs.nvidia.com/dgx/dgxh100-user-guide/): 8 cards of 400 Gb/s."""
A100 = Gpu("A100 SXM 80 GB", 312e12, 19.5e12, 80e9, 2.039e12, 300e9, 8 * 25e9)
"""https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/
nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf ; DGX A100: 8 cards of 200 Gb/s."""
ETHERNET = 12.5e9
"""Bytes a second of a single network card of 100 Gb/s in a node."""


@dataclass(frozen=True)
class Load:
    """What a step of a base with some heads takes.

    Attributes:
        numbers: trained parameters.
        flops: of one image with its two crops: forward and backward pass, and the teacher's.
        kept: bytes of activations that the forward pass of one image keeps for the backward pass.
        kept_whatever: bytes kept for any number of images: weights in bfloat16.
    """

    numbers: float
    flops: float
    kept: float
    kept_whatever: float

    def __add__(self, other: Load) -> Load:
        return Load(*(getattr(self, f) + getattr(other, f) for f in self.__dataclass_fields__))

    def times(self, count: float) -> Load:
        return Load(*(count * getattr(self, f) for f in self.__dataclass_fields__))


class Model:
    """A base and its 24 heads. A cohort of K heads is taken as K heads of average cost.

    Args:
        parts: parts.csv, by `scaling_parts.py`.
        base: the name of the base in it.
    """

    def __init__(self, parts: pd.DataFrame, base: str) -> None:
        own = parts[parts["base"] == base]
        self.base_row = own[own["part"] == "base"].iloc[0]
        self.heads = own[own["part"] != "base"]
        self.base, self.name = self._load(self.base_row), base
        loads = [self._load(row) for _, row in self.heads.iterrows()]
        total = loads[0]
        for load in loads[1:]:
            total += load
        self.head = total.times(1 / len(loads))
        self.controls = int(self.heads["control"].sum())
        self.head_forward = float(self.heads["forward_gflops"].mean()) * 1e9

    def _load(self, row: Any) -> Load:
        return Load(
            1e6 * row["params_m"], 1e9 * row["step_gflops_per_image"],
            1e6 * row["kept_mb_per_image"], 1e6 * row["kept_mb_whatever_the_images"],
        )  # fmt: skip

    def with_heads(self, count: float) -> Load:
        return self.base + self.head.times(count)


def step(
    load: Load, batch: int, gpus: int, gpu: Gpu, used: float, between: float
) -> dict[str, Any]:
    """Seconds of the parts of a step, which follow one another, and bytes on a GPU.

    Args:
        load: of base and heads.
        batch: images of a step, on all GPUs.
        gpus: how many there are.
        gpu: their kind.
        used: the share of the peak FLOPs a second that is reached.
        between: bytes a second, one way, of all network cards of a node.
    """
    images = batch / gpus
    # A ring all-reduce sends and receives each gradient twice, but for a GPU's own part.
    sent = 2 * (gpus - 1) / gpus * FLOAT * load.numbers
    link = gpu.nvlink if gpus <= NODE else min(gpu.nvlink, between)
    return {
        "images_per_gpu": images,
        "compute_s": images * load.flops / (gpu.bf16 * used),
        "update_s": UPDATE_NUMBERS * FLOAT * load.numbers / gpu.memory_rate,
        "all_reduce_s": sent / (link * LINK_SHARE),
        "all_reduce_gb": sent / 1e9,
        "memory_gb": (state(load) + images * load.kept) / 1e9,
    }


def state(load: Load) -> float:
    """Bytes that training holds on every GPU, whatever the number of images."""
    return FLOAT * (HELD + TEMPORARY) * load.numbers + load.kept_whatever


def seconds(parts: dict[str, Any]) -> float:
    """Seconds of a whole step, from its parts."""
    return float(parts["compute_s"] + parts["update_s"] + parts["all_reduce_s"])


def lives(heads: int, controls: int, pruned: bool) -> list[int]:
    """How many heads train toward each of the rungs 1 … R."""
    contestants, counts = heads - controls, []
    for _ in range(RUNGS):
        counts.append(contestants + controls)
        if pruned:
            contestants = min(contestants, kept(contestants, ETA, MIN_KEEP))
    return counts


def scoring(model: Model, live: int, gpus: int, gpu: Gpu, used: float) -> float:
    """Seconds of scoring a rung: each GPU runs the whole base, and scores its share of heads."""
    share = math.ceil(live / gpus)
    forward = SCORED * (1e9 * model.base_row["forward_gflops"] + share * model.head_forward)
    width = 384 if model.name == "vit_s" else 768
    probe = PROBE_PASSES * 3 * 2 * BANK * width * CLASSES
    return forward / (gpu.bf16 * used) + share * probe / (gpu.float64 * used)


def cohort(
    model: Model,
    heads: int,
    batch: int,
    gpus: int,
    gpu: Gpu,
    used: float,
    between: float,
    *,
    pruned: bool,
    controls: int,
) -> dict[str, float]:
    """Seconds of one cohort, training and scoring.

    Args:
        model: the base and its heads.
        heads: of the cohort, at its start.
        batch: images of a step, on all GPUs.
        gpus: that the cohort trains on.
        gpu: their kind.
        used: the share of the peak FLOPs a second that is reached.
        between: bytes a second, one way, of all network cards of a node.
        pruned: whether heads are pruned at rungs.
        controls: how many of the heads are never pruned.
    """
    steps = EPOCHS * (IMAGES // batch)
    counts = lives(heads, controls, pruned)
    training = sum(
        steps / RUNGS * seconds(step(model.with_heads(live), batch, gpus, gpu, used, between))
        for live in counts
    )
    scored = sum(scoring(model, live, gpus, gpu, used) for live in [heads, *counts])
    return {"training_s": training, "scoring_s": scored}


COLUMNS = ("gpus_a_cohort", "gpus_busy", "rounds", "hours", "gpu_hours", "scoring_share")
"""The columns of searches.csv that hold results."""
WAYS = {"one cohort of 24": 24, "4 cohorts of 6": 6, "each head alone": 1}
"""Ways to train 24 heads, with the heads of a cohort."""


def most_gpus(batch: int) -> int:
    """The largest number of GPUs that a cohort can use."""
    return batch // LEAST_IMAGES


def batch_for(gpus: int) -> int:
    """Images of a step: the published 256, or as many as keep the GPUs busy, up to 4,096."""
    return min(max(BATCHES), max(min(BATCHES), LEAST_IMAGES * gpus))


def least_gpus(load: Load, batch: int, gpu: Gpu) -> int:
    """The smallest power of two of GPUs whose memory holds a step."""
    room = ROOM * gpu.memory - state(load)
    if room <= 0:
        return 2**30  # more than there are: it fits on none
    return 2 ** max(0, math.ceil(math.log2(batch * load.kept / room)))


def searched(
    model: Model,
    way: str,
    batch: int,
    gpus: int,
    gpu: Gpu,
    used: float,
    between: float,
    *,
    pruned: bool = True,
) -> dict[str, Any]:
    """A row of searches.csv: a search of 24 heads in one of `WAYS`; NaN where it does not fit.

    Args:
        model: the base and its heads.
        way: a key of `WAYS`.
        batch: images of a step, on all GPUs of a cohort.
        gpus: of the whole search.
        gpu: their kind.
        used: the share of the peak FLOPs a second that is reached.
        between: bytes a second, one way, of all network cards of a node.
        pruned: whether heads are pruned at rungs.
    """
    heads = WAYS[way]
    cohorts = 24 // heads
    # A power of two of GPUs for a cohort: so many that all cohorts train at once, but no fewer
    # than the memory of a step needs.
    each = min(2 ** int(math.log2(max(1, gpus // cohorts))), most_gpus(batch))
    each = max(each, least_gpus(model.with_heads(heads), batch, gpu))
    if each > gpus:
        return dict.fromkeys(COLUMNS, math.nan)
    at_once = min(cohorts, gpus // each)
    rounds = math.ceil(cohorts / at_once)
    controls = math.ceil(model.controls / cohorts) if heads > 1 else 0
    took = cohort(model, heads, batch, each, gpu, used, between, pruned=pruned and heads > 1,
                  controls=controls)  # fmt: skip
    one = took["training_s"] + took["scoring_s"]
    return {
        "gpus_a_cohort": each,
        "gpus_busy": each * at_once,
        "rounds": rounds,
        "hours": rounds * one / 3600,
        "gpu_hours": cohorts * one * each / 3600,
        "scoring_share": took["scoring_s"] / one,
    }


def main() -> None:
    parts = pd.read_csv(OUT / "parts.csv")
    models = {base: Model(parts, base) for base in ("vit_s", "vit_b")}
    write("loads.csv", [load_row(model) for model in models.values()])
    write("steps.csv", steps(models))
    write("searches.csv", searches(models))
    write("storage.csv", storage(models))


def write(name: str, rows: Any) -> None:
    """Writes a table to results/scaling/, and prints it."""
    pd.DataFrame(rows).to_csv(OUT / name, index=False, float_format="%.4g")
    print(f"\n{name}\n{pd.DataFrame(rows).to_string(index=False)}")


def load_row(model: Model) -> dict[str, Any]:
    """A row of loads.csv: parameters, FLOPs and memory of a base with its 24 heads."""
    whole = model.with_heads(24)
    return {
        "base": model.name,
        "base_params_m": model.base.numbers / 1e6,
        "head_params_m": model.head.numbers / 1e6,
        "all_params_m": whole.numbers / 1e6,
        "base_step_gflops": model.base.flops / 1e9,
        "head_step_gflops": model.head.flops / 1e9,
        "all_step_gflops": whole.flops / 1e9,
        "cost_in_bases": whole.flops / model.base.flops,
        "alone_in_bases": 24 * (model.base + model.head).flops / model.base.flops,
        "base_kept_mb": model.base.kept / 1e6,
        "all_kept_mb": whole.kept / 1e6,
        "head_kept_mb": model.head.kept / 1e6,
        "state_gb": state(whole) / 1e9,
        "gathered_mb_batch_1024": 2 * 1024 * EMBEDDING * FLOAT * 25 / 1e6,
        "most_images_on_80_gb": (ROOM * H100.memory - state(whole)) // whole.kept,
    }


def steps(models: dict[str, Model]) -> list[dict[str, Any]]:
    """The rows of steps.csv: a step of one cohort of 24, before any head is pruned."""
    decode_s = pd.read_csv(OUT / "decode.csv")["cpu_ms"].iloc[0] / 1000
    rows = []
    for name, model in models.items():
        for gpu, between, network in (
            (H100, H100.nics, "8 × 400 Gb/s"),
            (H100, ETHERNET, "100 Gb/s"),
            (A100, A100.nics, "8 × 200 Gb/s"),
        ):
            for batch in BATCHES:
                for gpus in (count for count in GPUS if count <= most_gpus(batch)):
                    parts = step(model.with_heads(24), batch, gpus, gpu, UTILISATION[1], between)
                    rows.append({
                        "base": name, "gpu": gpu.name, "network": network, "batch": batch,
                        "gpus": gpus, **parts, "step_s": seconds(parts),
                        "all_reduce_share": parts["all_reduce_s"] / seconds(parts),
                        "images_per_s_node": batch / seconds(parts) * min(1, NODE / gpus),
                        "cores_node": batch / seconds(parts) * min(1, NODE / gpus) * decode_s,
                        "fits": parts["memory_gb"] < ROOM * gpu.memory / 1e9,
                    })  # fmt: skip
    return rows


def searches(models: dict[str, Model]) -> list[dict[str, Any]]:
    """The rows of searches.csv: a search in each of `WAYS` on each number of GPUs."""
    rows = []
    for name, model in models.items():
        for gpus in GPUS:
            batch = batch_for(gpus)
            for way in WAYS:
                slow, usual, fast = (
                    searched(model, way, batch, gpus, H100, used, H100.nics) for used in UTILISATION
                )
                unpruned = searched(
                    model, way, batch, gpus, H100, UTILISATION[1], H100.nics, pruned=False
                )
                rows.append({
                    "base": name, "batch": batch, "gpus": gpus, "way": way, **usual,
                    "hours_least": fast["hours"], "hours_most": slow["hours"],
                    "hours_unpruned": unpruned["hours"],
                })  # fmt: skip
    return rows


def storage(models: dict[str, Model]) -> list[dict[str, Any]]:
    """The rows of storage.csv: bytes of snapshots, three a cohort at most, and of results.

    The bytes of a result in the database are extrapolated by a line over heads × rungs.
    """
    results = pd.read_csv(OUT / "results.csv")
    per_row = (
        results["bytes"].diff().iloc[-1] / (results["heads"] * results["rungs"]).diff().iloc[-1]
    )
    first = results.iloc[-1]
    fixed = first["bytes"] - per_row * first["heads"] * first["rungs"]
    return [
        {
            "base": name, "heads": heads,
            "snapshot_gb": HELD * FLOAT * model.with_heads(heads).numbers / 1e9,
            "cohort_on_disk_gb": 3 * HELD * FLOAT * model.with_heads(heads).numbers / 1e9,
            "first_weights_gb": FLOAT * model.base.numbers / 1e9,
            "committed_kb": (fixed + per_row * heads * RUNGS) / 1e3,
        }
        for name, model in models.items()
        for heads in (24, 6, 1)
    ]  # fmt: skip


if __name__ == "__main__":
    main()
