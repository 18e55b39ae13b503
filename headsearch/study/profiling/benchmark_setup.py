"""Set-up of a benchmark: a run's base, objective and heads, with as little data as possible."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from headsearch.config.base_names import domain_of_base
from headsearch.config.domains import AUDIO, TEXT
from headsearch.config.setting_groups import OF_A_STEP
from headsearch.config.settings import RunConfig
from headsearch.errors import UserError
from headsearch.models.space import Candidate
from headsearch.runs.console import Loading, silently
from headsearch.study.setup import SearchSetup, prepare

ROOM_FOR_CONTROLS = 8
"""Extra trials of a benchmark's search: its controls are proposed first, and are not measured."""


def bench_settings(config: RunConfig, heads: int) -> RunConfig:
    """Settings of a benchmark: what decides the cost of a step is kept, the data are minimal.

    Args:
        config: the settings of the run whose steps are measured.
        heads: the largest number of heads that train together.

    Raises:
        UserError: the base takes texts or waveforms.
    """
    takes = {TEXT: "texts", AUDIO: "waveforms"}.get(domain_of_base(config.base) or "")
    if takes is not None:
        raise UserError(
            f"bench measures on synthetic images, and {config.base} takes {takes}: use run "
            "--dry-run"
        )
    of_a_step: dict[str, Any] = {name: getattr(config, name) for name in OF_A_STEP}
    count = heads + ROOM_FOR_CONTROLS
    return RunConfig(
        **of_a_step,
        images=max(config.batch_size, 32),
        rungs=1,
        eval_images=32,
        bank_images=8,
        trials=max(config.trials, count),
        cohort=max(config.trials, count),
        lr=1e-6,  # so small that the weights hardly change while steps are measured
    )


def prepare_bench(settings: RunConfig, loading: Loading = silently) -> SearchSetup:
    """The set-up of a run with `bench_settings`.

    `images_per_head` is left for the benchmark to check: the space may hold fewer heads than it
    measures, or more.

    Raises:
        UserError: something in the settings or the space cannot be used.
    """
    setup = prepare(settings.model_copy(update={"images_per_head": "all"}), loading)
    return setup.with_settings(images_per_head=settings.images_per_head)


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
