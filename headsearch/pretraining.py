"""`pretrain`: a solo run in a directory of its own, which ends with the weights of the base.

The directory holds `config.yaml`, written before training; `pretrain.csv`, a row a rung; and
`base.safetensors`, the base alone under timm's own parameter names. Its weights are the teacher's,
the moving average of the student's, for it is the teacher that is scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from headsearch import checkpoint
from headsearch.bases import Base, BasePlan
from headsearch.checkpoint import Run
from headsearch.config import OF_SEARCH_ALONE, PRESETS, RunConfig
from headsearch.errors import UserError
from headsearch.ground import (
    NOTHING_GIVEN,
    Given,
    Ground,
    ground_notes,
    ground_settings,
    machine_note,
    plan_of_run,
    prepare_ground,
    repeats_base,
)
from headsearch.head_choice import Head, check_head, head_on, name_at, written_head
from headsearch.machine import resolve_here
from headsearch.ranking import NO_HEAD
from headsearch.recipes import find_recipe
from headsearch.run_directory import create, new_run_directory
from headsearch.solo import SoloEvent, SoloScored, train_solo
from headsearch.space import Candidate

# Of the base on the reporting labels, and on those that may choose between heads; then the head's.
PRETRAIN_COLUMNS = (
    "rung",
    "step",
    "images",
    "base_knn",
    "base_linear",
    "choose_knn",
    "choose_linear",
    "effective_rank",
    "loss",
    "head_knn",
    "head_linear",
    "discrepancy",
)
WEIGHTS = "base.safetensors"


@dataclass(frozen=True)
class Planned:
    """A solo run, ready to start."""

    ground: Ground
    head: Head | None
    notes: tuple[str, ...]
    """What was decided, a line each."""

    @property
    def candidate(self) -> Candidate | None:
        return self.head.candidate if self.head else None


def prepare_pretraining(
    flags: Mapping[str, Any],
    *,
    run: Run | None = None,
    rank: int | None = None,
    head: str | None = None,
    given: Given = NOTHING_GIVEN,
    config_file: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Planned:
    """Opens and checks all that a solo run needs. Writes nothing.

    Args:
        flags: settings by name. They win over the run's own, or over `config_file`.
        run: a search, whose base, data, objective, seed and training are repeated.
        rank: a rank of its ranking; the first if neither this nor `head` is given.
        head: a candidate's name, a YAML file of one head, or "none" for the base alone.
        given: what a Python caller hands over in place of what a setting names.
        config_file: settings, where there is no run.
        progress: told how the decoding of images goes.

    Raises:
        UserError: no such run, rank or head, or settings or data that cannot be used.
    """
    for name in OF_SEARCH_ALONE:
        if name in flags:
            raise UserError(
                f"--{name.replace('_', '-')} means nothing to pretraining with one head"
            )
    if rank is not None and head is not None:
        raise UserError("--rank and --head both choose a head: give one of them")
    if run is None and head is None:
        what = "--rank needs a RUN; name a head" if rank is not None else "no head is named: choose"
        raise UserError(f"{what} with --head, or --head {NO_HEAD} for the base alone")
    if run is not None and config_file is not None:
        raise UserError("a RUN brings its own settings: leave out --config")
    notes = []
    if run is not None and head is None:
        head, note = name_at(run, 1 if rank is None else rank)
        notes += [note] if note else []
    assert head is not None
    config = settings_like(run, flags, given) if run else resolve_here(flags, config_file)
    config = config.model_copy(update={"coupling": "joint", "images_per_head": "all"})
    check_head(head, run)  # told before images are decoded
    if run is not None and given.base is None and repeats_base(run, config):
        given = replace(given, base=plan_of_run(run))
    ground = prepare_ground(config, given, progress)
    chosen = head_on(ground.plan, head, run) if head != NO_HEAD else None
    notes += chosen.notes if chosen else []
    with_head = f"with the head {chosen.candidate.name}" if chosen else "without a head"
    steps = (
        f"{ground.steps} steps of {config.batch_size} images ({config.epochs} epochs) {with_head}, "
        f"scored at {config.rungs} rungs"
    )
    lines = (*ground_notes(ground), *notes, steps, machine_note(ground))
    return Planned(ground, chosen, lines)


def settings_like(run: Run, flags: Mapping[str, Any], given: Given = NOTHING_GIVEN) -> RunConfig:
    """The settings of a search, and these over them; a `budget` brings its own figures.

    Where its base diverged, the learning rate is the one that it was lowered to.

    Raises:
        UserError: a setting is out of bounds, or stands for something that was given in Python.
    """
    for name in run.config.get("given", []):
        if name != "space" and name not in flags and getattr(given, name) is None:
            raise UserError(
                f"{run.path}: its {name} was given in Python ({run.config.get(name)}); give it "
                f"again there, or name another with --{name.replace('_', '-')}"
            )
    asked: dict[str, Any] = dict(PRESETS.get(str(flags.get("budget")), {}))
    if run.facts.get("lowered"):
        asked["lr"] = run.facts["lowered"][-1]["lr"]
    if "recipe" in flags:
        recipe = find_recipe(flags["recipe"])
        asked |= {name: value for name, value in recipe.settings.items() if name != "base"}
    config = resolve_here({**asked, **flags}, run.path / "config.yaml")
    lr = find_recipe(config.recipe).lr(config.batch_size) if "recipe" in flags else None
    return config if lr is None or "lr" in flags else config.model_copy(update={"lr": lr})


class Pretraining:
    """A solo run in its directory. Making one writes the directory with its config.yaml.

    Attributes:
        run_directory: where it writes; fresh.
        weights: the file of the base's weights, there from rung 1 on.

    Raises:
        UserError: the directory exists or cannot be made.
    """

    def __init__(self, planned: Planned) -> None:
        self.planned = planned
        self.ground = ground = planned.ground
        candidate = planned.candidate
        name = candidate.name if candidate else "no-head"
        self.run_directory = new_run_directory(ground.config.out, f"{ground.config.base}-{name}")
        self.weights = self.run_directory / WEIGHTS
        self.rows: list[dict[str, Any]] = []
        settings = ground_settings(ground, self.run_directory)
        head = planned.head
        solo_head = written_head(head.candidate, head.origin) if head else NO_HEAD
        create(
            self.run_directory,
            {**{k: v for k, v in settings.items() if k not in OF_SEARCH_ALONE},
             "solo_head": solo_head},
        )  # fmt: skip
        ground.data.left_out.list_in(self.run_directory)

    def run(self) -> Generator[SoloEvent, None, None]:
        """Trains, and yields what happens; every rung leaves its scores and the base's weights.

        Closing the generator, or Ctrl-C, ends it early with what the last rung left.

        Raises:
            UserError: base or head diverged.
        """
        for event in train_solo(self.ground, self.planned.candidate):
            if isinstance(event, SoloScored):
                self._keep(event)
            yield event

    def _keep(self, event: SoloScored) -> None:
        self.rows.append(_row(event, self.ground, self.planned.candidate))
        checkpoint.write_table(self.run_directory / "pretrain.csv", self.scores)
        if event.rung > 0:
            checkpoint.write_weights(self.weights, base_weights(event.base))

    @property
    def scores(self) -> pd.DataFrame:
        """pretrain.csv: a row a rung."""
        return pd.DataFrame(self.rows, columns=list(PRETRAIN_COLUMNS))

    @property
    def loading(self) -> str:
        """The line of Python that builds the base with its weights."""
        if isinstance(self.ground.given.base, nn.Module):
            return f"module.load_state_dict(safetensors.torch.load_file({str(self.weights)!r}))"
        return loading_line(self.ground.plan, self.weights)


def base_weights(base: Base) -> dict[str, Tensor]:
    """A base's parameters and buffers, under timm's own names or its module's, on the CPU."""
    trunk: nn.Module = base.trunk
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in trunk.state_dict().items()
    }


def loading_line(plan: BasePlan, weights: Path) -> str:
    """The line of Python that builds a base with the weights of this file."""
    arguments = "".join(f", {name}={value!r}" for name, value in plan.arguments.items())
    return (
        f"timm.create_model({plan.timm_name!r}, num_classes=0{arguments}, "
        f"checkpoint_path={str(weights)!r})"
    )


def _row(event: SoloScored, ground: Ground, candidate: Candidate | None) -> dict[str, Any]:
    base = event.scores.base
    head = event.scores.heads[candidate.name] if candidate else None
    reported = head.report if head else None
    return {
        "rung": event.rung,
        "step": event.step,
        "images": event.step * ground.config.batch_size,
        "base_knn": base.report.knn if base.report else math.nan,
        "base_linear": base.report.linear if base.report else math.nan,
        "choose_knn": base.choose.knn if base.choose else math.nan,
        "choose_linear": base.choose.linear if base.choose else math.nan,
        "effective_rank": base.effective_rank,
        "loss": event.loss,
        "head_knn": reported.knn if reported else math.nan,
        "head_linear": reported.linear if reported else math.nan,
        "discrepancy": head.discrepancy.value if head and head.discrepancy else math.nan,
    }
