"""The set-up of a pretraining with one head: opens and checks everything before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headsearch.config.locations import moved_modules
from headsearch.config.presets import DEFAULT_LR, PRESETS, quick_lr
from headsearch.config.recipes import find_recipe
from headsearch.config.setting_groups import OF_SEARCH_ALONE
from headsearch.config.settings import RunConfig
from headsearch.data.domains import domain_of
from headsearch.errors import UserError
from headsearch.models.space import Candidate
from headsearch.pretraining.head_selection import (
    Head,
    check_head,
    head_on,
    name_at,
    read_head,
)
from headsearch.runs.console import Loading, silently
from headsearch.runs.directory import CONFIG, read_config
from headsearch.runs.run import SOLO_HEAD, Run
from headsearch.runs.same_settings import check_as_recorded
from headsearch.runs.snapshot import read_record
from headsearch.runs.tables import NO_HEAD
from headsearch.text import counted
from headsearch.training.base_plan import (
    has_weights_of,
    plan_as_recorded,
    plan_of_run,
    repeats_base,
)
from headsearch.training.environment import resolve_here
from headsearch.training.inputs import NO_INPUTS, InMemoryInputs, check_inputs
from headsearch.training.provenance import machine_note, setup_notes
from headsearch.training.setup import TrainingSetup, prepare_training

ALWAYS = {"coupling": "joint", "images_per_head": "all"}
"""Settings of every solo run. A head that only observes would leave the base as it is without
one."""


@dataclass(frozen=True)
class PretrainingSetup:
    """A solo run, ready to start.

    Attributes:
        setup: data, base, objective and settings.
        head: the head; None for the base alone.
        notes: the decisions made, one line each.
    """

    setup: TrainingSetup
    head: Head | None
    notes: tuple[str, ...]

    @property
    def candidate(self) -> Candidate | None:
        """The candidate of the head; None for the base alone."""
        return self.head.candidate if self.head else None


def prepare_pretraining(
    flags: Mapping[str, Any],
    *,
    run: Run | None = None,
    rank: int | None = None,
    head: str | None = None,
    inputs: InMemoryInputs = NO_INPUTS,
    config_file: Path | None = None,
    loading: Loading = silently,
) -> PretrainingSetup:
    """Opens and checks everything that a solo run needs. Writes nothing.

    Args:
        flags: settings by name. They override those of the run or of `config_file`.
        run: a search whose base, data, objective, seed and training are repeated.
        rank: a rank of its ranking; the first if neither this nor `head` is given.
        head: a candidate's name, a YAML file of one head, or "none" for the base alone.
        inputs: objects that a Python caller passes in place of names.
        config_file: a YAML file of settings, if there is no run.
        loading: told what is being loaded.

    Raises:
        UserError: no such run, rank or head, or settings or data that cannot be used.
    """
    for name in OF_SEARCH_ALONE:
        if name in flags:
            raise UserError(
                f"--{name.replace('_', '-')} does not apply to pretraining with one head"
            )
    if rank is not None and head is not None:
        raise UserError("--rank and --head both choose a head: give one of them")
    if run is None and head is None:
        what = "--rank needs a RUN; name a head" if rank is not None else "no head is named: choose"
        raise UserError(f"{what} with --head, or --head {NO_HEAD} for the base alone")
    if run is not None and config_file is not None:
        raise UserError("a RUN has its own settings: leave out --config")
    notes = []
    if run is not None and head is None:
        head, note = name_at(run, 1 if rank is None else rank)
        notes += [note] if note else []
    assert head is not None
    config = settings_like(run, flags, inputs) if run else resolve_here(flags, config_file)
    config = config.model_copy(update=ALWAYS)
    check_head(head, run)  # before images are decoded, which may take long
    if run is not None and inputs.base is None and repeats_base(run, config):
        # Fitted as in the search, also if this is another kind of device.
        inputs = replace(inputs, base=plan_of_run(run, config.base_weights))
    setup = prepare_training(config, inputs, loading)
    chosen = head_on(setup.plan, head, run) if head != NO_HEAD else None
    notes += chosen.notes if chosen else []
    return _planned(setup, chosen, notes)


def prepare_again(
    directory: Path,
    inputs: InMemoryInputs = NO_INPUTS,
    loading: Loading = silently,
    flags: Mapping[str, Any] | None = None,
) -> PretrainingSetup:
    """Opens and checks everything that is needed to resume a pretraining.

    Args:
        directory: its directory.
        inputs: the objects that it was started with in Python.
        loading: told what is being loaded.
        flags: settings to change on resuming.

    Raises:
        UserError: the directory is not that of a pretraining, an object that it was started with is
            missing, or its settings or data can no longer be used.
    """
    written = read_config(directory)
    if SOLO_HEAD not in written:
        raise UserError(f"{directory}: a search, not a pretraining with one head")
    check_inputs(directory, written, inputs, "resume_pretraining")
    moved = dict(flags or {})
    head, space = written[SOLO_HEAD], moved.pop("space", None)
    if space is not None and head != NO_HEAD:
        head = moved_modules(head, Path(space).parent)
    kept = {"normalization": written.get("normalization", "imagenet")}
    config = resolve_here(moved, directory / CONFIG).model_copy(update={**ALWAYS, **kept})
    recorded = (read_record(directory) or {}).get("settings")
    check_as_recorded(directory, recorded, config.model_dump(mode="json"))
    if inputs.base is None and domain_of(config).shape_of(config) is not None:
        arguments = written.get("base_arguments", {})
        inputs = replace(inputs, base=plan_as_recorded(config, arguments))
    setup = prepare_training(config, inputs, loading)
    source = f"{directory / CONFIG}: {SOLO_HEAD}"
    return _planned(setup, None if head == NO_HEAD else read_head(head, setup.plan, source), [])


def _planned(setup: TrainingSetup, head: Head | None, notes: list[str]) -> PretrainingSetup:
    """A solo run with its notes: those of the set-up, those on the head, steps and device."""
    config = setup.config
    with_head = f"with the head {head.candidate.name}" if head else "without a head"
    steps = (
        f"{counted(setup.steps, 'step')} of {setup.batch} {setup.domain.words.samples} "
        f"({counted(config.epochs, 'epoch')}) {with_head}, "
        f"scored at {counted(config.rungs, 'rung')}"
    )
    return PretrainingSetup(setup, head, (*setup_notes(setup), *notes, steps, machine_note(setup)))


OLD_QUICK_LR = 5e-5
"""The learning rate of budget `quick` before it depended on the base's width."""


def lr_of_budget(budget: Any, run: Run) -> float:
    """The learning rate that a budget gives the base of a run."""
    width = run.facts.get("base", {}).get("dim")
    return quick_lr(width) if budget == "quick" and width else DEFAULT_LR


def settings_like(
    run: Run, flags: Mapping[str, Any], inputs: InMemoryInputs = NO_INPUTS
) -> RunConfig:
    """The settings of a search, overridden by these flags.

    A `budget` among the flags brings the settings of its preset. If the search's base diverged, the
    learning rate is the one that it was lowered to.

    Raises:
        UserError: a setting is out of bounds, or stands for an object that was passed in Python and
            is missing.
    """
    for name in run.config.get("given", []):
        if name != "space" and name not in flags and getattr(inputs, name) is None:
            raise UserError(
                f"{run.path}: its {name} was given in Python ({run.config.get(name)}); give it "
                f"again there, or name another with --{name.replace('_', '-')}"
            )
    asked: dict[str, Any] = dict(PRESETS.get(str(flags.get("budget")), {}))
    chosen = run.config.get("lr") not in (lr_of_budget(run.config.get("budget"), run), OLD_QUICK_LR)
    if asked and not chosen:  # else the user chose the search's rate for this base: keep it
        asked["lr"] = lr_of_budget(flags["budget"], run)
    if run.facts.get("lowered"):
        asked["lr"] = run.facts["lowered"][-1]["lr"]
    if "recipe" in flags:
        recipe = find_recipe(flags["recipe"])
        asked |= {name: value for name, value in recipe.settings.items() if name != "base"}
    if "base_weights" in flags and has_weights_of(run, Path(flags["base_weights"])):
        asked["normalization"] = run.config.get("normalization", "imagenet")
    config = resolve_here({**asked, **flags}, run.path / "config.yaml")
    if config.lr is None:  # a run that did not record it
        config = config.model_copy(update={"lr": lr_of_budget(config.budget, run)})
    lr = find_recipe(config.recipe).lr(config.batch_size) if "recipe" in flags else None
    return config if lr is None or "lr" in flags else config.model_copy(update={"lr": lr})
