"""What the parts of a search take on this machine, in time and memory, measured in some seconds.

Time: a step's crops, the base's step, what each head adds to it, the scoring of a rung. Each is
measured with the trainer that the search uses. Heads too many to be measured are put on the
straight line over GFLOPs through those that were. Memory is counted: numbers that are trained, what
a forward keeps for the backward, the copy that a snapshot makes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from headsearch.study.profiling.step_profiler import Size, StepMeter
from headsearch.study.setup import SearchSetup
from headsearch.training.objectives import Objective

HEADS_S = 8.0
"""Seconds after which no further head is measured."""
SCORING_S = 8.0
"""Seconds that scoring may take for all images to be scored, and not a sample of them."""
SCORED = 16
"""Heads that are scored for that, at most: a few hardly show beside the base."""
SAMPLE, WARM_UP = 512, 64
"""Queries of a sample, and images of the bank: what is timed, and what comes before."""
NUMBER = 4
"""Bytes of a float32."""
WRITTEN = 2**26
"""Bytes that are written to time it."""


@dataclass(frozen=True)
class HeadCost:
    """What a head adds to a step.

    Attributes:
        seconds: by itself.
        size: what it holds where it sees all images.
    """

    seconds: float
    size: Size


@dataclass(frozen=True)
class Costs:
    """What the parts of a search take here; times in seconds.

    Attributes:
        crops: of a step: images read, decoded and augmented.
        base: of a step without heads.
        base_size: what the base holds.
        heads: of each head, by its name.
        images: how many of a step's images it saw when that was timed.
        measured: how many of these were measured, and not put on the line.
        score_base: of scoring the base at a rung.
        score_head: of scoring one head at a rung.
        write_byte: of a byte of a snapshot, copied, written and flushed.
        process: bytes that the process holds before training.
        free: bytes that are free then, if the system tells.
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


def measure_costs(prepared: SearchSetup, heads: Sequence[Candidate]) -> Costs:
    """Measures the parts of a search with these heads."""
    images = head_batch_size(prepared.config.images_per_head, prepared.batch, prepared.most_heads)
    process, free = resident_memory(prepared.device), free_memory(prepared.device)
    meter = StepMeter(prepared)
    measured: dict[str, HeadCost] = {}
    started = time.perf_counter()
    for head in _of_all_families(heads):
        if len(measured) > 1 and time.perf_counter() - started > HEADS_S:
            break
        measured[head.name] = HeadCost(meter.own(head, images), meter.size_of(head))
    costs = _estimated(heads, measured) | measured
    score_base, score_head = _scoring(meter, prepared.data, _spread(heads, costs))
    return Costs(
        crops=meter.crops(),
        base=meter.joint([]),
        base_size=meter.size_of_base(),
        heads=costs,
        images=images,
        measured=len(measured),
        score_base=score_base,
        score_head=score_head,
        write_byte=_writing(),
        process=process,
        free=free,
    )


def training_bytes(
    objective: Objective, base: Size, heads: Iterable[Size], seeds: int = 1
) -> float:
    """What training holds: all that is trained, and the forward of a step.

    Args:
        seeds: how many bases with heads are held at once; they step one after the other.
    """
    sizes = [base, *heads]
    params = sum(size.params for size in sizes)
    # Beside what is held, one number each that comes and goes: gradients, the teacher's distance.
    numbers = _held(objective) * seeds + 1
    return NUMBER * numbers * params + sum(size.kept for size in sizes)


def snapshot_bytes(
    objective: Objective, base: Size, heads: Iterable[Size], seeds: int = 1
) -> float:
    """What a snapshot holds: all that is trained. Until it is written, so does memory once more."""
    params = sum(size.params for size in (base, *heads))
    return NUMBER * _held(objective) * seeds * params


def _held(objective: Objective) -> int:
    """Numbers that are held for each one trained: the weight, two of the optimizer's, and the
    teacher's where there is one."""
    return 4 if objective.has_teacher else 3


def _writing() -> float:
    """Seconds that a byte of a snapshot takes where temporary files go."""
    numbers = torch.rand(WRITTEN // NUMBER)
    try:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            write_snapshot(Path(folder), Snapshot({"numbers": numbers}, {}))
            return (time.perf_counter() - started) / WRITTEN
    except OSError:  # no room there: the forecast does without
        return 0.0


def _of_all_families(heads: Sequence[Candidate]) -> list[Candidate]:
    """Heads in an order that comes to every family before it comes to one again."""
    seen: dict[str, int] = {}
    turn = {}
    for head in heads:
        turn[head.name] = seen[head.family] = seen.get(head.family, -1) + 1
    return sorted(heads, key=lambda head: turn[head.name])


def _estimated(heads: Sequence[Candidate], measured: Mapping[str, HeadCost]) -> dict[str, HeadCost]:
    """What heads cost by the straight lines over GFLOPs through those that were measured."""
    known = [head for head in heads if head.name in measured]

    def line(value: Callable[[HeadCost], float]) -> Callable[[Candidate], float]:
        x, y = [head.gflops for head in known], [value(measured[head.name]) for head in known]
        slope, start = np.polyfit(x, y, 1) if len(set(x)) > 1 else (0.0, float(np.mean(y)))
        return lambda head: max(min(y), float(start + slope * head.gflops))

    seconds, kept = line(lambda cost: cost.seconds), line(lambda cost: cost.size.kept)
    # Norm and projection: the same for all heads of one width.
    beside = float(np.mean([measured[h.name].size.params - 1e6 * h.params_m for h in known]))
    return {
        head.name: HeadCost(seconds(head), Size(1e6 * head.params_m + beside, kept(head)))
        for head in heads
    }


def _spread(heads: Sequence[Candidate], costs: Mapping[str, HeadCost]) -> list[Candidate]:
    """`SCORED` heads from cheap to dear, whose mean is about that of all."""
    ordered = sorted(heads, key=lambda head: costs[head.name].seconds)
    count = min(SCORED, len(ordered))
    return [ordered[(2 * index + 1) * len(ordered) // (2 * count)] for index in range(count)]


def _scoring(meter: StepMeter, data: Data, heads: Sequence[Candidate]) -> tuple[float, float]:
    """Seconds of a rung for the base, and for each head beside it."""
    sample = _sample(data, SAMPLE)
    meter.scoring(heads, _sample(data, WARM_UP))
    base, both = meter.scoring([], sample), meter.scoring(heads, sample)
    times = _count(data) / _count(sample)
    if times > 1 and times * both < SCORING_S:
        base, both, times = meter.scoring([], data), meter.scoring(heads, data), 1.0
    return times * base, times * max(0.0, both - base) / len(heads)


def _count(data: Data) -> int:
    return len(data.queries) + (len(data.bank) if data.bank is not None else 0)


def _sample(data: Data, count: int) -> Data:
    """The first images that a rung is scored on."""

    def first(images: Images) -> Images:
        return ImageSubset(images, torch.arange(min(count, len(images))))

    return replace(
        data,
        queries=first(data.queries),
        bank=first(data.bank) if data.bank is not None else None,
        choose=data.choose[data.choose < count],
        report=data.report[data.report < count],
    )
