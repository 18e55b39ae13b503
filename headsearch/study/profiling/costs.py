"""Costs of the parts of a search on this machine, time and memory, measured in some seconds.

Time is measured with the search's own trainer: the crops of a step, the step of the base, what
each head adds to it, and the scoring of a rung. Where there are too many heads to measure, the rest
is estimated by a straight line over GFLOPs, fitted to the measured ones. Memory is counted, not
measured: trained parameters, activations that a forward pass keeps for the backward pass, and the
copy that a snapshot takes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from headsearch.data import Data, Images
from headsearch.data.image.store import ImageSubset
from headsearch.device import free_memory, resident_memory
from headsearch.models.head_batches import head_batch_size
from headsearch.models.space import Candidate
from headsearch.runs.snapshot import Snapshot, write_snapshot
from headsearch.study.profiling.step_profiler import Size, StepProfiler
from headsearch.study.setup import SearchSetup
from headsearch.training.objectives import Objective

HEADS_S = 8.0
"""Seconds after which no further head is measured."""
SCORING_S = 8.0
"""If scoring takes longer than this many seconds on all images, only a sample is measured."""
SCORED = 16
"""Heads that are scored to measure scoring, at most. With few of them, what a head adds is hard to
tell from the noise of the base's own scoring."""
SAMPLE, WARM_UP = 512, 64
"""Queries and bank images of the sample whose scoring is measured, and of the warm-up before it."""
NUMBER = 4
"""Bytes of a float32."""
WRITTEN = 2**26
"""Bytes that are written to measure the speed of a snapshot."""


@dataclass(frozen=True)
class HeadCost:
    """What a head adds to a step.

    Attributes:
        seconds: of the head's own work.
        size: of the head where it sees all images.
    """

    seconds: float
    size: Size


@dataclass(frozen=True)
class Costs:
    """What the parts of a search take on this machine; times in seconds.

    Attributes:
        crops: of making a step's crops: images are read, decoded and augmented.
        base: of a step without heads.
        base_size: what the base holds in memory.
        heads: of each head, by its name.
        images: how many images of a step a head sees in the times of `heads`.
        measured: how many of the heads were measured; the others are estimated.
        score_base: of scoring the base at a rung, on dense data and tasks too.
        score_head: of scoring one head at a rung, likewise.
        write_byte: of one byte of a snapshot: copied, written and flushed.
        process: bytes that the process holds before training.
        free: bytes that are free then, None where the system does not tell.
    """

    crops: float
    base: float
    base_size: Size
    heads: Mapping[str, HeadCost]
    images: int
    measured: int
    score_base: float
    score_head: float
    write_byte: float
    process: int
    free: int | None


def measure_costs(setup: SearchSetup, heads: Sequence[Candidate]) -> Costs:
    """Measures the parts of a search with these heads."""
    images = head_batch_size(setup.config.images_per_head, setup.batch, setup.most_heads)
    # Before anything is trained: what the measurements allocate is not the search's.
    process, free = resident_memory(setup.training.device), free_memory(setup.training.device)
    profiler = StepProfiler(setup.training)
    measured: dict[str, HeadCost] = {}
    started = time.perf_counter()
    for head in _families_in_turn(heads):
        # Two at least, for the line through the heads that are measured.
        if len(measured) > 1 and time.perf_counter() - started > HEADS_S:
            break
        measured[head.name] = HeadCost(profiler.own(head, images), profiler.size_of(head))
    costs = _estimated(heads, measured) | measured
    spread = _spread(heads, costs)
    score_base, score_head = _scoring_seconds(profiler, setup.data, spread)
    other_base, other_head = _other_seconds(profiler, spread)
    return Costs(
        crops=profiler.crops(),
        base=profiler.joint([]),
        base_size=profiler.size_of_base(),
        heads=costs,
        images=images,
        measured=len(measured),
        score_base=score_base + other_base,
        score_head=score_head + other_head,
        write_byte=_seconds_per_written_byte(),
        process=process,
        free=free,
    )


def training_bytes(
    objective: Objective, base: Size, heads: Iterable[Size], seeds: int = 1
) -> float:
    """Bytes that training holds at its peak: all parameters, and the activations of one step.

    Args:
        objective: whether it has a teacher decides how many numbers a parameter takes.
        base: the size of the base.
        heads: the sizes of the heads that train together.
        seeds: how many replicas of base and heads are held at once; their steps take turns, so
            that the activations of one are held at a time.
    """
    sizes = [base, *heads]
    params = sum(size.params for size in sizes)
    # One temporary number more for each parameter, of one replica at a time: its gradient, or its
    # distance to the teacher's, which is computed after the gradients are freed.
    numbers = _numbers_per_parameter(objective) * seeds + 1
    return NUMBER * numbers * params + sum(size.kept for size in sizes)


def snapshot_bytes(
    objective: Objective, base: Size, heads: Iterable[Size], seeds: int = 1
) -> float:
    """Bytes of a snapshot: all parameters with their state.

    Memory holds them a second time until the snapshot is written.
    """
    params = sum(size.params for size in (base, *heads))
    return NUMBER * _numbers_per_parameter(objective) * seeds * params


def _numbers_per_parameter(objective: Objective) -> int:
    """Numbers held for each trained parameter: its value, AdamW's two moments, the teacher's value
    where the objective has a teacher."""
    return 4 if objective.has_teacher else 3


def _seconds_per_written_byte() -> float:
    """Seconds that one byte of a snapshot takes in the directory for temporary files."""
    numbers = torch.rand(WRITTEN // NUMBER)
    try:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            write_snapshot(Path(folder), Snapshot({"numbers": numbers}, {}))
            return (time.perf_counter() - started) / WRITTEN
    except OSError:  # no space there: the forecast then ignores the time of snapshots
        return 0.0


def _families_in_turn(heads: Sequence[Candidate]) -> list[Candidate]:
    """The first head of every family, then the second of every family, and so on.

    Whichever head is the last that time allows, the measured ones then cover most families.
    """
    counts: dict[str, int] = {}
    turn = {}
    for head in heads:
        turn[head.name] = counts[head.family] = counts.get(head.family, -1) + 1
    return sorted(heads, key=lambda head: turn[head.name])


@dataclass(frozen=True)
class _Line:
    """The straight line of a cost over GFLOPs that fits the measured heads best.

    Attributes:
        least: the lowest measured cost; no estimate is below it.
    """

    slope: float
    intercept: float
    least: float

    @classmethod
    def through(cls, gflops: Sequence[float], costs: Sequence[float]) -> _Line:
        """The least-squares fit; a constant where all heads have the same GFLOPs."""
        several = len(set(gflops)) > 1
        slope, intercept = np.polyfit(gflops, costs, 1) if several else (0.0, float(np.mean(costs)))
        return cls(slope, intercept, min(costs))

    def at(self, gflops: float) -> float:
        return max(self.least, float(self.intercept + self.slope * gflops))


def _estimated(heads: Sequence[Candidate], measured: Mapping[str, HeadCost]) -> dict[str, HeadCost]:
    """The costs of all heads by straight lines over GFLOPs through those that were measured."""
    known = [head for head in heads if head.name in measured]
    gflops = [head.gflops for head in known]
    seconds = _Line.through(gflops, [measured[head.name].seconds for head in known])
    kept = _Line.through(gflops, [measured[head.name].size.kept for head in known])
    # Norm and projection, which a candidate's `params_m` leaves out: the same for all heads.
    beside = float(
        np.mean([measured[head.name].size.params - 1e6 * head.params_m for head in known])
    )
    return {
        head.name: HeadCost(
            seconds.at(head.gflops), Size(1e6 * head.params_m + beside, kept.at(head.gflops))
        )
        for head in heads
    }


def _spread(heads: Sequence[Candidate], costs: Mapping[str, HeadCost]) -> list[Candidate]:
    """`SCORED` heads at even distances from the cheapest to the dearest; their mean cost is about
    that of all."""
    ordered = sorted(heads, key=lambda head: costs[head.name].seconds)
    count = min(SCORED, len(ordered))
    return [ordered[(2 * index + 1) * len(ordered) // (2 * count)] for index in range(count)]


def _scoring_seconds(
    profiler: StepProfiler, data: Data, heads: Sequence[Candidate]
) -> tuple[float, float]:
    """Seconds of a rung's scoring: of the base, and of each head."""
    sample = _sample(data, SAMPLE)
    profiler.scoring(heads, _sample(data, WARM_UP))
    base, both = profiler.scoring([], sample), profiler.scoring(heads, sample)
    factor = _image_count(data) / _image_count(sample)
    if factor > 1 and factor * both < SCORING_S:
        base, both, factor = profiler.scoring([], data), profiler.scoring(heads, data), 1.0
    return factor * base, factor * max(0.0, both - base) / len(heads)


def _other_seconds(profiler: StepProfiler, heads: Sequence[Candidate]) -> tuple[float, float]:
    """Seconds of a rung's scores on dense data and further tasks: of the base, and of each head.

    A head of medium cost stands for all.
    """
    base = profiler.other_scoring([])
    return base, max(0.0, profiler.other_scoring(heads[len(heads) // 2 :][:1]) - base)


def _image_count(data: Data) -> int:
    return len(data.queries) + (len(data.bank) if data.bank is not None else 0)


def _sample(data: Data, count: int) -> Data:
    """The first `count` queries and bank images of those that a rung is scored on."""

    def first(images: Images) -> Images:
        return ImageSubset(images, torch.arange(min(count, len(images))))

    return replace(
        data,
        queries=first(data.queries),
        bank=first(data.bank) if data.bank is not None else None,
        choose=data.choose[data.choose < count],
        report=data.report[data.report < count],
    )
