"""What joint training costs on this machine, beside its parts and beside one head at a time.

All in one run and in turn: the base's step without heads, each head's own cost on given features,
joint steps with 1, 2, 4, … heads, and steps of the base with each head alone. `step_meter.py` says
what a step is. Each figure is the median of its repeats.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from headsearch.device import machine_facts
from headsearch.models.head_batches import check_images_per_head, head_batch_size
from headsearch.models.network import BASE
from headsearch.study.profiling.benchmark_setup import bench_heads, without_number
from headsearch.study.profiling.costs import training_bytes
from headsearch.study.profiling.peak_memory import MB, Memory, peak_memory
from headsearch.study.profiling.step_profiler import Size, StepMeter, product_rate, step_flops
from headsearch.study.setup import SearchSetup
from headsearch.training.provenance import recorded_settings

HEADS = (1, 2, 4, 8, 16)
"""How many heads are trained together, one number after the other."""
REPEATS = 5
TERA = 1e12


class Bench:
    """One benchmark: `measure` it, then read `findings`.

    Args:
        prepared: a run with `bench_settings`.
        counts: the numbers of heads that are trained together.
        repeats: how often each time is taken.

    Raises:
        UserError: so many heads would see too few images each.

    Attributes:
        heads: the heads that are measured; K heads are the first K of them.
        seconds: of a step, a figure a repeat, by what it is: ("base",), ("joint", K), and of each
            different head ("solo", NAME) and ("own", NAME, n), where it sees n of its images.
        memory: of two steps with K heads, by K; of the base alone by 0.
        flops: of a step with K heads, by K; of the base alone by 0.
        product_rate: FLOPs a second of a matrix product alone.
        sizes: what the base and each different head hold, counted; the base's by "".
    """

    def __init__(
        self, prepared: SearchSetup, counts: Sequence[int] = HEADS, repeats: int = REPEATS
    ) -> None:
        self._prepared, self._repeats = prepared, repeats
        self._counts = sorted(set(counts))
        check_images_per_head(prepared.config.images_per_head, prepared.batch, self._counts[-1])
        self.heads = bench_heads(prepared, self._counts[-1])
        self.seconds: dict[tuple[str | int, ...], list[float]] = defaultdict(list)
        self.memory: dict[int, Memory] = {}
        self.flops: dict[int, float] = {}
        self.product_rate = math.nan
        self.sizes: dict[str, Size] = {}

    def measure(self) -> Iterator[str]:
        """Measures everything, and yields what comes next, in words.

        Raises:
            UserError: so many heads do not fit into memory.
        """
        # Before anything is trained here, so that the processes have the memory for themselves.
        for count in (0, *self._counts):
            yield f"memory with {count} heads"
            self.memory[count] = peak_memory(self._prepared.config, count)
        yield "the first steps"
        meter = StepMeter(self._prepared)
        different = [head for head in self.heads if head.name == without_number(head)]
        own = {
            (head.name, images): head
            for images in sorted({self._prepared.batch, *map(self._images, self._counts)})
            for head in different
        }
        self.sizes = {BASE: meter.size_of_base()}
        self.sizes |= {head.name: meter.size_of(head) for head in different}
        prepared = self._prepared
        self.flops = {n: step_flops(prepared, self.heads[:n]) for n in (0, *self._counts)}
        self.product_rate = product_rate(prepared.device, autocast=prepared.autocast)
        for repeat in range(self._repeats):
            yield f"times, repeat {repeat + 1} of {self._repeats}"
            self.seconds["crops",].append(meter.crops())
            self.seconds["base",].append(meter.joint([]))
            for count in self._counts:
                self.seconds["joint", count].append(meter.joint(self.heads[:count]))
            for head in different:
                self.seconds["solo", head.name].append(meter.solo(head))
            for (name, images), head in own.items():
                self.seconds["own", name, images].append(meter.own(head, images))

    def findings(self) -> dict[str, Any]:
        """What came out, as JSON can hold it: times in ms, memory in MB (10⁶ bytes)."""
        prepared, config = self._prepared, self._prepared.config
        plan, settings = prepared.plan, recorded_settings(prepared, Path())
        cohorts = [self._cohort(count) for count in self._counts]
        base_ms, base_mb = self._ms("base"), self.memory[0].peak
        counts = [0, *self._counts]
        return {
            "base": {
                "name": plan.name,
                "image_size": plan.image_size,
                "grid": list(plan.grid),
                "dim": plan.dim,
                "params_m": plan.params_m,
                "gflops": plan.gflops,
            },
            "space": config.space,
            "objective": config.objective,
            "coupling": config.coupling,
            "images_per_head": config.images_per_head,
            "batch_size": config.batch_size,
            "precision": settings["precision"],
            "machine": machine_facts(prepared.device),
            "versions": settings["versions"],
            "git_commit": settings["git_commit"],
            "repeats": self._repeats,
            "crops_ms": self._ms("crops"),
            "base_ms": base_ms,
            "base_images_per_second": 1000 * config.batch_size / base_ms,
            "base_tflops_per_second": self._tflops_per_second(0, base_ms),
            "product_tflops_per_second": self.product_rate / TERA,
            "base_peak_memory_mb": base_mb,
            "process_memory_mb": self.memory[0].before,
            "heads": [self._head(name) for name in dict.fromkeys(map(without_number, self.heads))],
            "cohorts": cohorts,
            "ms_per_head": _slope(counts, [base_ms, *(c["joint_ms"] for c in cohorts)]),
            "memory_per_head_mb": _slope(counts, [self.memory[k].peak for k in counts]),
        }

    def _head(self, name: str) -> dict[str, Any]:
        candidate = next(head for head in self.heads if head.name == name)
        return {
            "candidate": name,
            "params_m": candidate.params_m,
            "gflops": candidate.gflops,
            "own_ms": self._ms("own", name, self._prepared.batch),
            "solo_ms": self._ms("solo", name),
        }

    def _cohort(self, count: int) -> dict[str, Any]:
        """What K heads together cost, beside the sum of the parts and beside K solo steps."""
        names = [without_number(head) for head in self.heads[:count]]
        base_ms, joint_ms = self._ms("base"), self._ms("joint", count)
        images = self._images(count)
        own_ms = sum(self._ms("own", name, images) for name in names)
        solo_ms = sum(self._ms("solo", name) for name in names)
        joint = np.array(self.seconds["joint", count])
        own = np.sum([self.seconds["own", name, images] for name in names], axis=0)
        overheads = joint / (np.array(self.seconds["base",]) + own)
        savings = joint / np.sum([self.seconds["solo", name] for name in names], axis=0)
        prepared = self._prepared
        base_mb, mb = self.memory[0].peak, self.memory[count].peak
        share = images / prepared.batch
        sizes = [self.sizes[name].seeing(share) for name in names]
        counted = training_bytes(prepared.objective, self.sizes[BASE], sizes)
        return {
            "heads": count,
            "images_per_head": images,
            "candidates": [head.name for head in self.heads[:count]],
            "joint_ms": joint_ms,
            "own_ms": own_ms,
            "parts_ms": base_ms + own_ms,
            "solo_ms": solo_ms,
            "overhead_ratio": joint_ms / (base_ms + own_ms),
            "overhead_range": [float(overheads.min()), float(overheads.max())],
            "saving_ratio": joint_ms / solo_ms,
            "saving_range": [float(savings.min()), float(savings.max())],
            "images_per_second": 1000 * prepared.config.batch_size / joint_ms,
            "tflops_per_second": self._tflops_per_second(count, joint_ms),
            "ms_per_head": (joint_ms - base_ms) / count,
            "peak_memory_mb": mb,
            "predicted_memory_mb": self.memory[count].before + counted / MB,
            "memory_per_head_mb": (mb - base_mb) / count,
        }

    def _images(self, heads: int) -> int:
        """How many images each of so many heads sees."""
        setting = self._prepared.config.images_per_head
        return head_batch_size(setting, self._prepared.batch, heads)

    def _tflops_per_second(self, heads: int, ms: float) -> float:
        return self.flops[heads] / TERA / (ms / 1000)

    def _ms(self, *what: str | int) -> float:
        return 1000 * median(self.seconds[what])


def _slope(counts: Sequence[int], values: Sequence[float]) -> float:
    """How much more with each head: the straight line that fits best."""
    return float(np.polyfit(counts, values, 1)[0])
