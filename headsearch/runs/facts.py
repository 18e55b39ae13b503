"""What a run records about itself in its Optuna study, beside settings and tables.

Facts are plain JSON, so they are a typed dictionary. Runs of older versions lack some of them.
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
    """How many images each part of the evaluation set has, and how many classes."""

    bank: int
    choose: int
    report: int
    probe: int
    classes: int


class RunFacts(TypedDict, total=False):
    """All facts of a run.

    Attributes:
        started: date and time in ISO format.
        images: training images.
        labelled: whether there are labels, and so accuracies.
        baselines: accuracies to compare with, by name: `raw_knn`, `untrained_linear`, `base_knn`, …
        steps: of one cohort under one seed.
        space_size: points of the space; None where there are infinitely many.
        excluded: candidates left out by constraints; None where the space is sampled.
        cost_base_equivalents: cost so far, in trainings of the base alone of the same length.
        solo_equivalents: what training every candidate alone would have cost, in the same unit.
        lowered, splits: incidents (`incidents.py`), as dictionaries.
        went_back: the cohort and the rung that the search last went back for.
        diverged: whether the base diverged beyond help.
        dominant_share: of the base's first principal component, at the last rung.
        status: running, complete, interrupted or failed.
        wall_s, score_s: seconds in all, and of them scoring.
        images_per_second: while training; None before the first step.
    """

    started: str
    base: BaseFacts
    device: str
    precision: str
    threads: int
    images: int
    eval: EvaluationFacts
    labelled: bool
    baselines: dict[str, float]
    rung_count: int
    seeds: int
    steps: int
    space_size: int | None
    excluded: int | None
    cost_base_equivalents: float
    solo_equivalents: float
    lowered: list[dict[str, Any]]
    splits: list[dict[str, Any]]
    went_back: list[int] | None
    diverged: bool
    dominant_share: float | None
    status: str
    wall_s: float
    score_s: float
    images_per_second: float | None
