"""Set-up of a benchmark: a run's base, objective and heads, with as little data as possible."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from headsearch.config.base_names import CLIP_SECONDS, SAMPLE_RATE, rate_of, takes_waveforms
from headsearch.config.domains import AUDIO, AUTO, IMAGE, TEXT
from headsearch.config.setting_groups import OF_A_STEP
from headsearch.config.settings import RunConfig
from headsearch.data.domains import domain_of
from headsearch.data.random_data import random_data
from headsearch.models.bases import shape_without_data
from headsearch.models.space import Candidate
from headsearch.runs.console import Loading, silently
from headsearch.study.setup import SearchSetup, prepare
from headsearch.training.domain import with_domain
from headsearch.training.inputs import NO_INPUTS, InMemoryInputs

ROOM_FOR_CONTROLS = 8
"""Extra trials of a benchmark's search: its controls are proposed first, and are not measured."""
EVALUATED = 32
"""Queries, the fewest that are allowed: scoring is not measured."""


def bench_settings(config: RunConfig, heads: int) -> RunConfig:
    """Settings of a benchmark: what decides the cost of a step is kept, the data are minimal.

    Args:
        config: the settings of the run whose steps are measured.
        heads: the largest number of heads that train together.

    Raises:
        UserError: a setting is for another domain, or base and domain do not fit together.
    """
    config = _with_shape(config)
    of_a_step: dict[str, Any] = {name: getattr(config, name) for name in OF_A_STEP}
    count = heads + ROOM_FOR_CONTROLS
    return RunConfig(
        **of_a_step,
        images=max(config.batch_size, 32),
        rungs=1,
        eval_images=EVALUATED,
        bank_images=8,
        trials=max(config.trials, count),
        cohort=max(config.trials, count),
        lr=1e-6,  # so small that the weights hardly change while steps are measured
    )


def _with_shape(config: RunConfig) -> RunConfig:
    """The settings with a domain, and with those that decide the shape of clips and texts."""
    if config.domain == AUTO and config.clip_seconds is not None:
        config = config.model_copy(update={"domain": AUDIO})
    config = with_domain(config, NO_INPUTS)
    decided: dict[str, Any] = {}
    if config.domain == AUDIO:
        decided["clip_seconds"] = config.clip_seconds or CLIP_SECONDS
        if takes_waveforms(config.base):
            decided["sample_rate"] = config.sample_rate or rate_of(config.base) or SAMPLE_RATE
    elif config.domain == TEXT:
        shape = shape_without_data(config.base, config.text_tokens, config.vocab_size)
        decided = {"text_tokens": shape.width, "vocab_size": shape.vocabulary}
    return config.model_copy(update=decided)


def prepare_bench(settings: RunConfig, loading: Loading = silently) -> SearchSetup:
    """The set-up of a run with `bench_settings`.

    `images_per_head` is left for the benchmark to check: the space may hold fewer heads than it
    measures, or more.

    Raises:
        UserError: something in the settings or the space cannot be used.
    """
    setup = prepare(
        settings.model_copy(update={"images_per_head": "all"}), loading, _random_inputs(settings)
    )
    return setup.with_settings(images_per_head=settings.images_per_head)


def _random_inputs(settings: RunConfig) -> InMemoryInputs:
    """Random clips or texts; no inputs for images, whose scenes are built in."""
    if settings.domain == IMAGE:
        return NO_INPUTS
    domain = domain_of(settings)
    shape = domain.shape_of(settings)
    assert shape is not None, "_with_shape has decided it"
    return InMemoryInputs(opened=random_data(domain.name, shape, settings.images, EVALUATED))


def bench_heads(setup: SearchSetup, count: int) -> list[Candidate]:
    """The heads to measure: those that a search of the space would try first, without controls.

    A space with fewer heads is repeated: the copies are numbered, as in `mixer-d1+1`.
    """
    proposed = setup.known_cohorts()[0]
    heads = [head for head in proposed if not head.control] or proposed
    return [_copy(heads[index % len(heads)], index // len(heads)) for index in range(count)]


def _copy(head: Candidate, number: int) -> Candidate:
    return replace(head, name=f"{head.name}+{number}") if number else head


def without_number(head: Candidate) -> str:
    """The name that a head of `bench_heads` has in the space."""
    return head.name.partition("+")[0]
