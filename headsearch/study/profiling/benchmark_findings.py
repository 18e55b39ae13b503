"""Results of a benchmark as frozen dataclasses, and the JSON of `headsearch bench --json`.

Times are medians over the repeats in milliseconds, memory is in MB (10⁶ bytes). The order of the
fields is the order of the JSON's keys.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from headsearch.config.settings import ImagesPerHead
from headsearch.study.profiling.reading import ReadingFindings


@dataclass(frozen=True)
class BaseFacts:
    """The base that was measured.

    Attributes:
        name: as `--base` names it.
        domain: the kind of data.
        inputs: what they are, in words.
        image_size: side of the images in pixels, time steps of clips, tokens of texts.
        grid: rows and columns of its token map.
        dim: channels of its token map.
        params_m: parameters in millions.
        gflops: of a forward pass of one image.
    """

    name: str
    domain: str
    inputs: str
    image_size: int
    grid: list[int]
    dim: int
    params_m: float
    gflops: float


@dataclass(frozen=True)
class HeadFindings:
    """What one head costs.

    Attributes:
        candidate: its name in the space.
        params_m: parameters in millions.
        gflops: of a forward pass of one image.
        own_ms: what it adds by itself to a step, on fixed features of the base.
        solo_ms: a step of the base with this head alone.
    """

    candidate: str
    params_m: float
    gflops: float
    own_ms: float
    solo_ms: float


@dataclass(frozen=True)
class CohortFindings:
    """What K heads that train together cost, beside the parts and beside K solo steps.

    Attributes:
        heads: K.
        images_per_head: images of a step that each head sees.
        candidates: the names of the heads.
        joint_ms: a step of the base with all of them.
        own_ms: the sum of what each adds by itself.
        parts_ms: the step of the base alone, and that sum.
        solo_ms: the sum of K steps of the base, each with one of the heads.
        overhead_ratio: `joint_ms` over `parts_ms`; 1 means that joint training adds no cost.
        overhead_range: the smallest and the largest of the repeats.
        saving_ratio: `joint_ms` over `solo_ms`.
        saving_range: the smallest and the largest of the repeats.
        images_per_second: of the joint step.
        tflops_per_second: of the joint step, by the FLOPs of its products and convolutions.
        ms_per_head: what a head adds to the step of the base, on average.
        peak_memory_mb: of a joint step.
        predicted_memory_mb: the memory counted from parameters and kept activations.
        memory_per_head_mb: what a head adds to the memory of the base, on average.
    """

    heads: int
    images_per_head: int
    candidates: list[str]
    joint_ms: float
    own_ms: float
    parts_ms: float
    solo_ms: float
    overhead_ratio: float
    overhead_range: list[float]
    saving_ratio: float
    saving_range: list[float]
    images_per_second: float
    tflops_per_second: float
    ms_per_head: float
    peak_memory_mb: float
    predicted_memory_mb: float
    memory_per_head_mb: float


@dataclass(frozen=True)
class BenchFindings:
    """All results of a benchmark, with the settings and the machine that they hold for.

    Attributes:
        base: the base.
        space: the search space that the heads come from.
        objective: the self-supervised objective.
        coupling: `joint` or `observe`.
        images_per_head: the setting: a number, `all` or `share`.
        batch_size: images of a step.
        precision: `float32` or `bf16`.
        machine: `machine_facts` of the device.
        versions: of Python and the packages, by name.
        git_commit: of the source, None where there is none.
        repeats: how many times each time was measured.
        crops_ms: making the crops of a step; part of no other time.
        base_ms: a step of the base alone.
        base_images_per_second: of that step.
        base_tflops_per_second: of that step, by the FLOPs of its products and convolutions.
        product_tflops_per_second: of a large matrix product on this device.
        base_peak_memory_mb: of a step of the base alone.
        process_memory_mb: held before base and heads are built.
        heads: each different head.
        cohorts: each number of heads that train together.
        ms_per_head: slope of a line fitted to the step time over the number of heads.
        memory_per_head_mb: slope of a line fitted to the memory over the number of heads.
        reading: of photos from their files; None if none were given.
    """

    base: BaseFacts
    space: str
    objective: str
    coupling: str
    images_per_head: ImagesPerHead
    batch_size: int
    precision: str
    machine: dict[str, Any]
    versions: dict[str, str]
    git_commit: str | None
    repeats: int
    crops_ms: float
    base_ms: float
    base_images_per_second: float
    base_tflops_per_second: float
    product_tflops_per_second: float
    base_peak_memory_mb: float
    process_memory_mb: float
    heads: list[HeadFindings]
    cohorts: list[CohortFindings]
    ms_per_head: float
    memory_per_head_mb: float
    reading: ReadingFindings | None = None

    def to_json(self) -> dict[str, Any]:
        """The object that `headsearch bench --json` prints, in values that JSON can hold."""
        return asdict(self)
