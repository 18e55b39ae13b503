"""The set-up of a search: opens and checks data, base, space and settings; writes nothing."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from headsearch.config.settings import RunConfig
from headsearch.data import Data
from headsearch.errors import UserError
from headsearch.models.bases import BasePlan
from headsearch.models.head_batches import check_images_per_head, head_batch_size
from headsearch.models.space import Candidate, Listing, ResolvedSpace, find_space, load_space
from headsearch.runs.console import Loading, silently
from headsearch.runs.other_data import TASK_MEAN
from headsearch.runs.rank_by import (
    ABSORPTION,
    check_other_data,
    check_rank_by,
    resolved_rank_by,
    weights_of,
)
from headsearch.runs.storage_url import masked
from headsearch.study.proposals import (
    candidate_count,
    check_can_be_sampled,
    cohort_sizes,
    draw_cohorts,
)
from headsearch.study.pruners import make_pruner
from headsearch.study.samplers import make_sampler
from headsearch.text import counted
from headsearch.training import distributed
from headsearch.training.domain import with_domain
from headsearch.training.inputs import NO_INPUTS, InMemoryInputs
from headsearch.training.provenance import machine_note, recorded_settings, setup_notes
from headsearch.training.setup import TrainingSetup, prepare_training


@dataclass(frozen=True)
class SearchSetup:
    """Everything that a search needs, opened and checked.

    Attributes:
        training: what a search shares with a solo run: data, base, objective and settings.
        space: the search space on this base.
        listing: all candidates, if the space is small enough to be listed; None otherwise.
        rank_by: the score that ranks candidates: a name in `RANK_BY`, or a weighted mean of some.
    """

    training: TrainingSetup
    space: ResolvedSpace
    listing: Listing | None
    rank_by: str

    @property
    def config(self) -> RunConfig:
        return self.training.config

    @property
    def data(self) -> Data:
        return self.training.data

    @property
    def plan(self) -> BasePlan:
        return self.training.plan

    @property
    def notes(self) -> tuple[str, ...]:
        """The decisions made, one line each, to be shown before the search starts."""
        return tuple(_notes(self))

    def with_settings(self, **changes: Any) -> SearchSetup:
        """The same setup with some settings changed. The new values are not checked."""
        config = self.config.model_copy(update=changes)
        return replace(self, training=replace(self.training, config=config))

    @property
    def batch(self) -> int:
        """The number of images in a step: the batch size, or fewer if there are fewer images."""
        return self.training.batch

    @property
    def most_heads(self) -> int:
        """The number of heads in the largest cohort."""
        return max(self.cohort_sizes)

    @property
    def cohort_sizes(self) -> list[int]:
        """The planned number of candidates in each cohort."""
        return cohort_sizes(candidate_count(self.listing, self.config), self.config.cohort)

    def known_cohorts(self) -> list[list[Candidate]]:
        """The cohorts that are known before the search: all of a listed space, else the first.

        What a sampler proposes after the first cohort depends on the scores.
        """
        drawn = draw_cohorts(self.space, self.listing, self.config)
        known = drawn if self.listing is not None else islice(drawn, 1)
        return [[proposal.candidate for proposal in cohort] for cohort in known]


def prepare(
    config: RunConfig,
    loading: Loading = silently,
    inputs: InMemoryInputs = NO_INPUTS,
) -> SearchSetup:
    """Opens the data, fits the base, resolves the space and checks every name. Writes nothing.

    Args:
        config: the resolved settings.
        loading: told what is being loaded.
        inputs: objects that a Python caller passes in place of names.

    Raises:
        UserError: something in the settings, the space or the data cannot be used.
    """
    # Names and space are checked first: opening the data may take long.
    config = with_domain(config, inputs)
    make_pruner(config.pruner, eta=config.eta, min_keep=config.min_keep, rungs=config.rungs)
    make_sampler(config.sampler, config.seed)
    check_rank_by(config.rank_by)
    if ABSORPTION in weights_of(config.rank_by) and config.coupling != "observe":
        raise UserError(f"--rank-by {ABSORPTION} needs --coupling observe")
    _check_prune_among(config)
    if config.dense_data is None:
        check_other_data(config.rank_by, _from_tasks(config), None)
    space = load_space(find_space(config.space)) if inputs.space is None else inputs.space
    training = prepare_training(config, inputs, loading)
    rank_by = resolved_rank_by(
        config.rank_by,
        labelled=training.data.bank is not None,
        data=config.eval_data or config.data,
        unused_labels=training.data.unused_labels,
    )
    if training.dense is not None:
        available = {*training.dense.available, *_from_tasks(config)}
        check_other_data(config.rank_by, available, config.dense_data)
    if len(set(distributed.gather_objects(space.hash))) > 1:
        raise UserError(f"the processes of this job have different spaces: {config.space}")
    loading(f"fitting the heads of {config.space} to the base")
    resolved = space.on(training.plan)
    listing = resolved.enumerate(config.trials)
    if listing is None and config.trials <= len(resolved.controls):
        raise UserError(
            f"--trials {config.trials} leaves no room beside the {len(resolved.controls)} controls "
            "of the space; use a larger number"
        )
    if listing is None:
        check_can_be_sampled(resolved, config)
    prepared = SearchSetup(training, resolved, listing, rank_by)
    samples = prepared.training.domain.words.samples
    check_images_per_head(config.images_per_head, prepared.batch, prepared.most_heads, samples)
    return prepared


def _from_tasks(config: RunConfig) -> tuple[str, ...]:
    """The columns that the tasks of a run give."""
    return () if config.tasks is None else (TASK_MEAN,)


def _check_prune_among(config: RunConfig) -> None:
    """Raises UserError if heads of several cohorts are to be compared that cannot be."""
    if config.prune_among != "all":
        return
    among = "--prune-among all compares heads of several cohorts"
    if config.coupling != "observe":
        raise UserError(
            f"{among}, whose bases differ with --coupling {config.coupling}: use observe"
        )
    if config.pruner != "rung":
        raise UserError(f"{among}, which only --pruner rung does, and not {config.pruner}")
    if config.images_per_head == "share":
        raise UserError(
            f"{among}, whose heads see different parts of a step with --images-per-head share: "
            "give a number"
        )


def check_one_process_can_prune(prepared: SearchSetup) -> None:
    """Raises UserError if rungs compare several cohorts, which one process trains in turn."""
    heads = sum(prepared.cohort_sizes)
    if prepared.config.prune_among == "all" and len(prepared.cohort_sizes) > 1:
        raise UserError(
            "--prune-among all compares cohorts rung by rung, which one process trains one after "
            f"another: give --engine local, or --cohort {heads} for a single cohort"
        )


def _notes(prepared: SearchSetup) -> Iterator[str]:
    config, listing = prepared.config, prepared.listing
    words = prepared.training.domain.words
    yield from setup_notes(prepared.training)
    count = candidate_count(listing, config)
    parts = (
        counted(len(prepared.data.train), words.sample),
        counted(config.epochs, "epoch"),
        counted(count, "candidate"),
        counted(config.rungs, "rung"),
    )
    yield f"this search: {', '.join(parts)} (budget {config.budget})"
    if listing is None:
        yield f"{counted(count, 'candidate')}, sampled by {config.sampler} from {config.space}"
    else:
        left_out = f"; {len(listing.excluded)} left out by constraints" if listing.excluded else ""
        yield f"{counted(count, 'candidate')}: all of {config.space}{left_out}"
    yield from prepared.space.notes
    seeds = f" under each of {config.seeds} seeds" if config.seeds > 1 else ""
    stops = ", to the rung where their order has settled" if config.stop == "settled" else ""
    yield (
        f"{counted(prepared.training.steps, 'step')} of {prepared.batch} {words.samples} "
        f"({counted(config.epochs, 'epoch')})"
        f"{seeds}, scored at {counted(config.rungs, 'rung')}, ranked by {prepared.rank_by}, "
        f"heads {config.coupling}{stops}"
    )
    if config.images_per_head != "all":
        seen = head_batch_size(config.images_per_head, prepared.batch, prepared.most_heads)
        more = ", and more once heads have left" if config.images_per_head == "share" else ""
        yield f"each head sees {seen} of the {prepared.batch} {words.samples} of a step{more}"
    yield machine_note(prepared.training)


def settings_of(prepared: SearchSetup, run_directory: Path) -> dict[str, Any]:
    """The content of config.yaml: the settings, and everything else that decides the results."""
    space = prepared.space.space
    return {
        **recorded_settings(prepared.training, run_directory),
        "rank_by": prepared.rank_by,
        "storage": _written(prepared.config.storage),
        # The space's hash is in the name because Optuna refuses a study whose choices changed.
        "study_name": f"{run_directory.name}-{space.hash}-{secrets.token_hex(4)}",
        "space_hash": space.hash,
        "space_content": space.written(),
    }


def _written(storage: str | None) -> str | None:
    """A storage URL without its password and with an absolute path, if it names a file."""
    if storage is None:
        return None
    for files in ("sqlite:///", "journal://"):
        if storage.startswith(files):
            return f"{files}{Path(storage.removeprefix(files)).absolute()}"
    return masked(storage)
