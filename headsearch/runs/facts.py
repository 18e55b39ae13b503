"""The facts that a run records about itself in its Optuna study, besides settings and tables.

They are stored as JSON, hence a typed dictionary. Runs of older versions lack some of them.
"""

from __future__ import annotations

from typing import Any, TypedDict


class BaseFacts(TypedDict, total=False):
    """The base: width `dim`, `grid` of the last map, millions of parameters, GFLOPs an image."""

    name: str
    timm_name: str
    dim: int
    grid: list[int]
    params_m: float
    gflops: float


class EvaluationFacts(TypedDict, total=False):
    """The number of images in each part of the evaluation set, and the number of classes."""

    bank: int
    choose: int
    report: int
    probe: int
    classes: int


class DenseFacts(TypedDict, total=False):
    """The dense data: what was understood, the base's grid, the columns that they give, the number
    of images to fit proxies on and to score them on, and a hash of the annotations."""

    notes: list[str]
    grid: list[int]
    scores: list[str]
    fit: int
    scored: int
    fingerprint: str


class TaskFacts(TypedDict, total=False):
    """The further tasks: what was understood, their names, and a hash of their labels."""

    notes: list[str]
    tasks: list[str]
    fingerprint: str


class RunFacts(TypedDict, total=False):
    """All facts of a run.

    Attributes:
        started: date and time of the start in ISO format.
        base: the base.
        device: the device.
        precision: bf16 or float32.
        threads: the number of CPU threads.
        images: the number of training images.
        eval: the sizes of the evaluation set.
        labelled: whether the data has labels, and the run has accuracies.
        data_warnings: what makes the data doubtful, one line each.
        baselines: accuracies to compare with, by name: `raw_knn`, `untrained_linear`, `base_knn`, …
        dense: the dense data; None without.
        tasks: the further tasks; None without.
        rung_count: the number of rungs after rung 0; with `settled`, of those that were trained.
        seeds: the number of seeds.
        steps: the number of training steps of one cohort with one seed.
        space_size: the number of points of the space; None if there are infinitely many.
        excluded: the number of candidates that constraints exclude; None for a sampled space.
        cost_base_equivalents: cost so far, in units of training the base alone for as long.
        solo_equivalents: cost of training every candidate alone, in the same unit.
        lowered, splits, settled: incidents (`incidents.py`), as dictionaries.
        went_back: the cohort and the rung at which the base last diverged.
        diverged: whether the search gave up because the base diverged.
        dominant_share: share of the base's first principal component in its variance, at the last
            rung.
        status: running, complete, interrupted or failed.
        settings: the settings that decide the results, as they were when the run began.
        wall_s, score_s: seconds in total, and seconds of scoring among them.
        images_per_second: speed of training; None before the first step.
        waiting_share: the share of the training time in which it waited for images.
        machines: with an engine, the cohorts that each machine trained to their end, by its name.
            They count from 1.
    """

    started: str
    base: BaseFacts
    device: str
    precision: str
    threads: int
    images: int
    eval: EvaluationFacts
    labelled: bool
    data_warnings: list[str]
    baselines: dict[str, float]
    dense: DenseFacts | None
    tasks: TaskFacts | None
    rung_count: int
    seeds: int
    steps: int
    space_size: int | None
    excluded: int | None
    cost_base_equivalents: float
    solo_equivalents: float
    lowered: list[dict[str, Any]]
    splits: list[dict[str, Any]]
    settled: dict[str, Any] | None
    went_back: list[int] | None
    diverged: bool
    dominant_share: float | None
    status: str
    settings: dict[str, Any]
    wall_s: float
    score_s: float
    images_per_second: float | None
    waiting_share: float | None
    machines: dict[str, list[int]]
