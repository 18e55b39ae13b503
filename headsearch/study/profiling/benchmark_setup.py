"""What a benchmark measures: the base, objective and heads of a run, and no data of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from headsearch.config.settings import OF_A_STEP, RunConfig
from headsearch.models.space import Candidate
from headsearch.study.setup import SearchSetup, prepare

ROOM_FOR_CONTROLS = 8
"""Controls come first among a search's candidates, and are not measured."""


def bench_settings(config: RunConfig, heads: int) -> RunConfig:
    """These settings with as little data as a run can have, and so many heads at once."""
    own: dict[str, Any] = {name: getattr(config, name) for name in OF_A_STEP}
    count = heads + ROOM_FOR_CONTROLS
    return RunConfig(
        **own,
        images=max(config.batch_size, 32),
        rungs=1,
        eval_images=32,
        bank_images=8,
        trials=max(config.trials, count),
        cohort=max(config.trials, count),
        lr=1e-6,  # the weights stay about where they are
    )


def prepare_bench(settings: RunConfig) -> SearchSetup:
    """A run with `bench_settings`, whose shares are for the benchmark to check: a space may hold
    fewer heads than it measures, or more.

    Raises:
        UserError: something in the settings or the space cannot be used.
    """
    prepared = prepare(settings.model_copy(update={"images_per_head": "all"}))
    return replace(prepared, config=settings)


def bench_heads(prepared: SearchSetup, count: int) -> list[Candidate]:
    """The heads that are measured: the space's own, as a search asks for them, without controls.

    Where the space has fewer, they come again under other names.
    """
    asked = prepared.known_cohorts()[0]
    heads = [head for head in asked if not head.control] or asked
    return [_again(heads[index % len(heads)], index // len(heads)) for index in range(count)]


def _again(head: Candidate, time: int) -> Candidate:
    return replace(head, name=f"{head.name}+{time}") if time else head


def without_number(head: Candidate) -> str:
    """The name that a head has in the space."""
    return head.name.partition("+")[0]
