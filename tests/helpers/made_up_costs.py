"""Forecasts of a tiny search from made-up costs, in whole numbers that a test can add up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from headsearch.config.settings import resolve
from headsearch.study.profiling.costs import Costs, HeadCost
from headsearch.study.profiling.forecast import Forecast, forecast_with
from headsearch.study.profiling.step_profiler import Size
from headsearch.study.setup import SearchSetup, prepare

SPACE = """
families:
  mixer: {depth: 1}
  convnext: {depth: 1, kernel: 3, first_shortcut: [true, false]}
  poolformer: {depth: 1}
  resmlp: {depth: 1}
  bottleneck: {depth: 1}
controls: {identity: }
"""
TINY = {
    "base": "test_vit", "image_size": 16, "patch_size": 4, "images": 96, "epochs": 2,
    "batch_size": 32, "rungs": 3, "eval_images": 64, "bank_images": 64, "min_keep": 1,
    "device": "cpu", "precision": "float32", "threads": 1,
}  # fmt: skip
MB = 1_000_000


def tiny(folder: Path, space: str = SPACE, **changes: Any) -> SearchSetup:
    file = folder / "space.yaml"
    file.write_text(space)
    return prepare(resolve({**TINY, "space": str(file), **changes}))


def made_up(cohorts: list[list[Any]], seconds: dict[str, float], **changes: Any) -> Costs:
    """Costs in whole numbers: 1 s the crops, 10 s the base; a head 2 s where nothing is said."""
    return replace(
        Costs(
            crops=1.0,
            base=10.0,
            base_size=Size(MB, 100 * MB),
            heads={
                head.name: HeadCost(seconds.get(head.name, 2.0), Size(MB, 10 * MB))
                for cohort in cohorts
                for head in cohort
            },
            images=32,
            measured=1,
            score_base=5.0,
            score_head=1.0,
            write_byte=0.0,
            process=1000 * MB,
            free=None,
        ),
        **changes,
    )


def foresee(
    prepared: SearchSetup, seconds: dict[str, float] | None = None, **changes: Any
) -> Forecast:
    cohorts = prepared.known_cohorts()
    return forecast_with(prepared, cohorts, made_up(cohorts, seconds or {}, **changes))
