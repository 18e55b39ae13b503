"""Benchmark of joint training on this machine, beside its parts and beside one head at a time.

Measured in one process and in turn: the step of the base without heads, what each head adds by
itself on fixed features of the base, joint steps with 1, 2, 4, … heads, and steps of the base with
each head alone. `step_profiler.py` defines a step. Each reported time is the median of its repeats.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeAlias

import numpy as np

from headsearch.device import machine_facts
from headsearch.models.head_batches import check_images_per_head, head_batch_size
from headsearch.models.network import BASE
from headsearch.models.space import Candidate
from headsearch.study.profiling.benchmark_findings import (
    BaseFacts,
    BenchFindings,
    CohortFindings,
    HeadFindings,
)
from headsearch.study.profiling.benchmark_setup import bench_heads, without_number
from headsearch.study.profiling.costs import training_bytes
from headsearch.study.profiling.peak_memory import MB, Memory, peak_memory
from headsearch.study.profiling.step_profiler import Size, StepProfiler, product_rate, step_flops
from headsearch.study.setup import SearchSetup
from headsearch.text import counted
from headsearch.training.provenance import recorded_settings

HEADS = (1, 2, 4, 8, 16)
"""The numbers of heads that are trained together, one after the other."""
REPEATS = 5
TERA = 1e12


OnProgress: TypeAlias = Callable[[str, int, int], object]


class Parts:
    """Counts the parts of a benchmark as they begin.

    Args:
        on_progress: called with a description of the part, the number done, and the total.
        total: the number of parts.
    """

    def __init__(self, on_progress: OnProgress, total: int) -> None:
        self._on_progress, self._total = on_progress, total
        self._begun = 0

    def begin(self, what: str) -> None:
        """The next part begins, so the ones before it are done."""
        self._on_progress(what, self._begun, self._total)
        self._begun += 1


@dataclass(frozen=True)
class StepTimes:
    """Measured times in seconds; each list holds one for each repeat.

    Attributes:
        crops: of making the crops of a step.
        base: of a step of the base alone.
        joint: of a step with K heads, by K.
        solo: of a step of the base with one head, by the head's name.
        own: of what a head adds by itself, by the number of images it sees and the head's name.
    """

    crops: list[float] = field(default_factory=list)
    base: list[float] = field(default_factory=list)
    joint: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    solo: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    own: dict[int, dict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )


class Bench:
    """One benchmark: call `measure`, then read `findings`.

    Args:
        setup: the set-up of a run with `bench_settings`.
        counts: the numbers of heads that are trained together.
        repeats: how many times each time is measured.

    Raises:
        UserError: with so many heads, each would see too few images.

    Attributes:
        heads: the heads that are measured; a cohort of K heads is the first K of them.
        times: the measured times.
        memory: of two steps with K heads, by K; that of the base alone is at 0.
        flops: of a step with K heads, by K; those of the base alone are at 0.
        product_rate: FLOPs a second of a large matrix product.
        sizes: counted memory of each different head by its name, and of the base at `BASE`.
    """

    def __init__(
        self, setup: SearchSetup, counts: Sequence[int] = HEADS, repeats: int = REPEATS
    ) -> None:
        self._setup, self._repeats = setup, repeats
        self._counts = sorted(set(counts))
        check_images_per_head(setup.config.images_per_head, setup.batch, self._counts[-1])
        self.heads = bench_heads(setup, self._counts[-1])
        self.times = StepTimes()
        self.memory: dict[int, Memory] = {}
        self.flops: dict[int, float] = {}
        self.product_rate = math.nan
        self.sizes: dict[str, Size] = {}

    def measure(self, on_progress: OnProgress = lambda *_: None) -> None:
        """Measures everything.

        Args:
            on_progress: called before each part is measured with a description of it, the number
                of parts that are done, and the number of all.

        Raises:
            UserError: so many heads do not fit into memory.
        """
        setup = self._setup
        different = [head for head in self.heads if head.name == without_number(head)]
        parts = Parts(on_progress, self._part_count(len(different)))
        # Before anything is trained in this process, so that the processes that measure memory
        # have all of it to themselves.
        for count in (0, *self._counts):
            parts.begin(f"memory with {counted(count, 'head')}")
            self.memory[count] = peak_memory(setup.config, count)
        parts.begin("the first steps")
        profiler = StepProfiler(setup.training)
        self.sizes = {BASE: profiler.size_of_base()}
        self.sizes |= {head.name: profiler.size_of(head) for head in different}
        self.flops = {n: step_flops(setup.training, self.heads[:n]) for n in (0, *self._counts)}
        self.product_rate = product_rate(setup.training.device, autocast=setup.training.autocast)
        for repeat in range(self._repeats):
            begin = partial(parts.begin, f"times, repeat {repeat + 1} of {self._repeats}")
            self._measure_times(profiler, different, begin)

    def _part_count(self, heads: int) -> int:
        """The number of parts that are measured, with so many different heads."""
        images = len({self._setup.batch, *map(self._images_per_head, self._counts)})
        each_repeat = 1 + len(self._counts) + (1 + images) * heads
        return 2 + len(self._counts) + self._repeats * each_repeat

    def _measure_times(
        self, profiler: StepProfiler, different: Sequence[Candidate], begin: Callable[[], None]
    ) -> None:
        """One repeat of every time; `begin` is called before each part.

        All kinds take turns within a repeat, so that a change of the machine's load or clock
        affects all of them and not the ratios.
        """
        times = self.times
        begin()
        times.crops.append(profiler.crops())
        times.base.append(profiler.joint([]))
        for count in self._counts:
            begin()
            times.joint[count].append(profiler.joint(self.heads[:count]))
        for head in different:
            begin()
            times.solo[head.name].append(profiler.solo(head))
        for images in sorted({self._setup.batch, *map(self._images_per_head, self._counts)}):
            for head in different:
                begin()
                times.own[images][head.name].append(profiler.own(head, images))

    def findings(self) -> BenchFindings:
        """The results: medians of the times, and the ratios between them."""
        setup, config = self._setup, self._setup.config
        plan, settings = setup.plan, recorded_settings(setup.training, Path())
        cohorts = [self._cohort(count) for count in self._counts]
        base_ms = _median_ms(self.times.base)
        counts = [0, *self._counts]
        return BenchFindings(
            base=BaseFacts(
                name=plan.name,
                domain=config.domain,
                inputs=plan.input_shape.words,
                image_size=plan.image_size,
                grid=list(plan.grid),
                dim=plan.dim,
                params_m=plan.params_m,
                gflops=plan.gflops,
            ),
            space=config.space,
            objective=config.objective,
            coupling=config.coupling,
            images_per_head=config.images_per_head,
            batch_size=config.batch_size,
            precision=settings["precision"],
            machine=machine_facts(setup.training.device),
            versions=settings["versions"],
            git_commit=settings["git_commit"],
            repeats=self._repeats,
            crops_ms=_median_ms(self.times.crops),
            base_ms=base_ms,
            base_images_per_second=1000 * config.batch_size / base_ms,
            base_tflops_per_second=self._tflops_per_second(0, base_ms),
            product_tflops_per_second=self.product_rate / TERA,
            base_peak_memory_mb=self.memory[0].peak,
            process_memory_mb=self.memory[0].before,
            heads=[self._head(name) for name in dict.fromkeys(map(without_number, self.heads))],
            cohorts=cohorts,
            ms_per_head=_slope(counts, [base_ms, *(cohort.joint_ms for cohort in cohorts)]),
            memory_per_head_mb=_slope(counts, [self.memory[count].peak for count in counts]),
        )

    def _head(self, name: str) -> HeadFindings:
        candidate = next(head for head in self.heads if head.name == name)
        return HeadFindings(
            candidate=name,
            params_m=candidate.params_m,
            gflops=candidate.gflops,
            own_ms=_median_ms(self.times.own[self._setup.batch][name]),
            solo_ms=_median_ms(self.times.solo[name]),
        )

    def _cohort(self, count: int) -> CohortFindings:
        """What the first `count` heads cost together."""
        setup, times = self._setup, self.times
        names = [without_number(head) for head in self.heads[:count]]
        images = self._images_per_head(count)
        own = [times.own[images][name] for name in names]
        solo = [times.solo[name] for name in names]
        base_ms, joint_ms = _median_ms(times.base), _median_ms(times.joint[count])
        own_ms, solo_ms = sum(map(_median_ms, own)), sum(map(_median_ms, solo))
        # Ratios of each repeat by itself, whose times were measured shortly one after the other.
        joint = np.array(times.joint[count])
        overheads = joint / (np.array(times.base) + np.sum(own, axis=0))
        savings = joint / np.sum(solo, axis=0)
        memory, base_memory = self.memory[count], self.memory[0]
        sizes = [self.sizes[name].seeing(images / setup.batch) for name in names]
        counted = training_bytes(setup.training.objective, self.sizes[BASE], sizes)
        return CohortFindings(
            heads=count,
            images_per_head=images,
            candidates=[head.name for head in self.heads[:count]],
            joint_ms=joint_ms,
            own_ms=own_ms,
            parts_ms=base_ms + own_ms,
            solo_ms=solo_ms,
            overhead_ratio=joint_ms / (base_ms + own_ms),
            overhead_range=[float(overheads.min()), float(overheads.max())],
            saving_ratio=joint_ms / solo_ms,
            saving_range=[float(savings.min()), float(savings.max())],
            images_per_second=1000 * setup.config.batch_size / joint_ms,
            tflops_per_second=self._tflops_per_second(count, joint_ms),
            ms_per_head=(joint_ms - base_ms) / count,
            peak_memory_mb=memory.peak,
            predicted_memory_mb=memory.before + counted / MB,
            memory_per_head_mb=(memory.peak - base_memory.peak) / count,
        )

    def _images_per_head(self, heads: int) -> int:
        """How many images of a step each of so many heads sees."""
        setting = self._setup.config.images_per_head
        return head_batch_size(setting, self._setup.batch, heads)

    def _tflops_per_second(self, heads: int, ms: float) -> float:
        return self.flops[heads] / TERA / (ms / 1000)


def _median_ms(seconds: Sequence[float]) -> float:
    return 1000 * median(seconds)


def _slope(counts: Sequence[int], values: Sequence[float]) -> float:
    """Slope of the least-squares line of values over the numbers of heads."""
    return float(np.polyfit(counts, values, 1)[0])
