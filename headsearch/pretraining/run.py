"""`pretrain`: a solo run in its own directory; it saves scores and the weights of the base.

The directory holds `config.yaml`, written before training; `pretrain.csv`, with one row for each
rung; `base.safetensors`, the base without its head under timm's parameter names;
`head.safetensors`, the head (`head.*`) with its final norm (`norm.*`), which `explain` needs; and,
until the run has ended, the snapshot to resume from. The weights are those of the teacher, which is
the moving average of the student, because the teacher is what is scored.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from headsearch.config import normalization
from headsearch.config.normalization import Normalization
from headsearch.config.setting_groups import OF_SEARCH_ALONE
from headsearch.config.settings import resolve
from headsearch.errors import UserError
from headsearch.evaluation.other_data_rows import with_solo_run
from headsearch.evaluation.scores import accuracy_columns, other_data_columns
from headsearch.models.bases import NORMALIZATION, Base, BasePlan, registered_by
from headsearch.models.bases.transformers_models import auto_class
from headsearch.models.network import AttachedHead
from headsearch.models.space import Candidate
from headsearch.pretraining.head_selection import (
    written_head,
)
from headsearch.pretraining.model_folder import MODEL, write_model_folder
from headsearch.pretraining.setup import (
    PretrainingSetup,
)
from headsearch.pretraining.solo import SoloEvent, SoloRun, SoloScored, SoloScoring
from headsearch.pretraining.step_file import StepFile
from headsearch.runs.directory import (
    CONFIG,
    create,
    hold,
    new_run_directory,
    read_config,
    undone_if_it_fails,
)
from headsearch.runs.observers import Observers
from headsearch.runs.other_data import BASE_OTHER_DATA
from headsearch.runs.other_data_tables import write_other_data
from headsearch.runs.run import SOLO_HEAD
from headsearch.runs.same_settings import (
    check_as_recorded,
    check_same_settings,
    settings_that_decide,
)
from headsearch.runs.snapshot import (
    FOLDER,
    Snapshot,
    check_start,
    has_damaged_snapshot,
    read_snapshot,
    write_snapshot,
    write_weights,
)
from headsearch.runs.tables import NO_HEAD, write_table
from headsearch.training.provenance import check_same_data, recorded_settings
from headsearch.training.setup import TrainingSetup

# `base_*` is the base's accuracy on the reporting labels, `choose_*` that on the labels that may be
# used to choose between heads; `head_*` is the head's accuracy on the reporting labels. The base's
# dense scores are those on the reported images.
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
    *BASE_OTHER_DATA,
)
WEIGHTS, HEAD_WEIGHTS, TABLE = "base.safetensors", "head.safetensors", "pretrain.csv"


def has_ended(directory: Path) -> bool:
    """Whether the pretraining in this directory is complete."""
    table = directory / TABLE
    if not table.is_file():
        return False
    try:
        rungs = list(pd.read_csv(table)["rung"])
    except (ValueError, KeyError):  # empty, or another table: the snapshot has the rows
        return False
    return bool(rungs) and rungs[-1] == resolve({}, directory / CONFIG).rungs


class Pretraining:
    """A solo run in its directory. Creating one writes the directory with config.yaml.

    Args:
        planned: the setup: data, base, head and settings.
        directory: the directory of an earlier process with the same settings, to be resumed. By
            default a new one is made.
        start_over: whether a run whose snapshots are lost starts from its first step.

    Attributes:
        run_directory: the directory that the run writes to.
        weights: the file with the base's weights; it exists from rung 1 on.
        rows: the rows of pretrain.csv.
        other_data_rows: those of dense.csv and tasks.csv.
        stop: set it to stop training after the current step, with a snapshot.

    Raises:
        UserError: the directory exists, cannot be made, or cannot be resumed.
    """

    def __init__(
        self, planned: PretrainingSetup, directory: Path | None = None, *, start_over: bool = False
    ) -> None:
        self.planned = planned
        self.setup = setup = planned.setup
        self.config = setup.config
        candidate = planned.candidate
        name = candidate.name if candidate else "no-head"
        self.run_directory = directory or new_run_directory(
            setup.config.out, f"{setup.config.base}-{name}"
        )
        self.weights = self.run_directory / WEIGHTS
        self.rows: list[dict[str, Any]] = []
        self.other_data_rows: list[dict[str, Any]] = []
        settings = self._settings()
        self._recorded = settings_that_decide(settings)
        new = create(self.run_directory, settings) if directory is None else None
        check_same_data(self.run_directory, read_config(self.run_directory), settings)
        check_same_settings(self.run_directory, settings)
        self._lock = hold(self.run_directory)
        with undone_if_it_fails(self.run_directory, new, self._lock):
            self._left = self._snapshot_left(start_over=start_over)
            self._solo = SoloRun(setup, candidate)
            if self._left is not None:
                check_as_recorded(self.run_directory, self._left.record.get("settings"), settings)
                self._solo.restore(self._left)
                self.rows = list(self._left.record["rows"])
                self.other_data_rows = list(self._left.record.get("other_data_rows", []))
            setup.data.left_out.list_in(self.run_directory)
        self.stop = self._solo.stop
        self._kept_at = time.monotonic()

    def _snapshot_left(self, *, start_over: bool) -> Snapshot | None:
        """The snapshot to continue from; None to start from the first step.

        Raises:
            UserError: as `check_start`.
        """
        left = read_snapshot(self.run_directory)
        files = (self.run_directory / TABLE, self.weights, self.run_directory / HEAD_WEIGHTS)
        has_results = self.weights.exists() or has_damaged_snapshot(self.run_directory)
        check_start(self.run_directory, left, has_results=has_results, start_over=start_over)
        if start_over:
            shutil.rmtree(self.run_directory / FOLDER, ignore_errors=True)
            for file in files:
                file.unlink(missing_ok=True)
        return left

    def _settings(self) -> dict[str, Any]:
        """The content of config.yaml."""
        head = self.planned.head
        written = written_head(head.candidate, head.origin) if head else NO_HEAD
        settings = recorded_settings(self.setup, self.run_directory)
        kept = {name: value for name, value in settings.items() if name not in OF_SEARCH_ALONE}
        return {**kept, SOLO_HEAD: written}

    @property
    def notes(self) -> tuple[str, ...]:
        """The decisions made before the first step, and where a resumed run continues."""
        if self._left is None:
            return self.planned.notes
        where = f"step {self._left.record['step']}, before rung {self._left.record['rung']}"
        return (*self.planned.notes, f"resuming from the last snapshot: {where}")

    @property
    def complete(self) -> bool:
        """Whether the last rung was scored."""
        return self._solo.rung > self.setup.config.rungs

    def run(self, *observers: Callable[[SoloEvent], None]) -> None:
        """Trains to the end, or until `stop` is set; the run can be resumed from its snapshot.

        At every rung, the scores and the base's weights are written.

        Args:
            observers: called with every event. If one raises an error, training stops as if `stop`
                were set, and the error is raised once the snapshot is written.

        Raises:
            UserError: base or head diverged, or the directory can no longer be written.
        """
        all_observers = Observers(observers, self.stop)

        progress = StepFile(self.run_directory, self.setup.steps)

        def observe(event: SoloEvent) -> None:
            progress.note(event.step)
            if isinstance(event, SoloScored):
                self._keep(event)
            elif time.monotonic() - self._kept_at > 60 * self.config.snapshot_every:
                self._snapshot()
            all_observers.notify(event)

        try:
            self._solo.run(observe)
            if self.stop.is_set() and not self.complete:
                self._snapshot()
        except OSError as error:
            if not self.run_directory.is_dir():
                raise UserError(
                    f"{self.run_directory}: the run directory was deleted while it trained, and "
                    "its results with it: pretrain again"
                ) from None
            raise UserError(
                f"{self.run_directory}: cannot write: {error.strerror or error}; what was written "
                f"before is kept: fix the cause, then headsearch resume {self.run_directory}"
            ) from error
        finally:
            progress.remove()
            self._lock.release()
        all_observers.raise_error()

    def _keep(self, event: SoloScored) -> None:
        """Writes weights, snapshot and table of a rung.

        The table comes last, because its last row tells other processes that the run is complete.
        """
        self.rows.append(_row(event, self.setup, self.planned.candidate))
        self.other_data_rows = with_solo_run(self.other_data_rows, event.scores, event.rung)
        if event.rung > 0:
            expected = normalization.parse(self.config.normalization)
            entry = NORMALIZATION, json.dumps(normalization.as_json(expected))
            write_weights(self.weights, base_weights(event.base), entry)
            if self.setup.plan.of_transformers:
                write_model_folder(
                    self.run_directory, event.base, self.config.base,
                    encoder=self.setup.data.encoder, rate=self.setup.plan.input_shape.rate,
                )  # fmt: skip
            if event.head is not None:
                write_weights(self.run_directory / HEAD_WEIGHTS, head_weights(event.head))
        if not self.complete:
            self._snapshot()
        write_other_data(self.run_directory, self.other_data_rows)
        write_table(self.run_directory / TABLE, self.scores)
        if self.complete:
            shutil.rmtree(self.run_directory / FOLDER, ignore_errors=True)

    def _snapshot(self) -> None:
        now = self._solo.snapshot()
        record = {
            **now.record, "rows": self.rows, "other_data_rows": self.other_data_rows,
            "settings": self._recorded,
        }  # fmt: skip
        write_snapshot(self.run_directory, Snapshot(now.tensors, record))
        self._kept_at = time.monotonic()

    def show_scoring(self, show: Callable[[SoloScoring], object]) -> None:
        """Makes `show` be called many times while a rung is scored."""
        self._solo.on_scoring = show

    @property
    def scores(self) -> pd.DataFrame:
        """pretrain.csv: a row for each rung."""
        return pd.DataFrame(self.rows, columns=list(PRETRAIN_COLUMNS))

    @property
    def loading(self) -> str:
        """A line of Python code that builds the base with its weights."""
        expected = normalization.parse(self.config.normalization)
        if isinstance(self.setup.inputs.base, nn.Module):
            return (
                f"module.load_state_dict(safetensors.torch.load_file({str(self.weights)!r}))"
                f"  # {self.setup.domain.words.normalized}: {expected.words}"
            )
        if self.setup.plan.of_transformers:
            loader = auto_class(self.setup.plan.timm_name)
            return f"transformers.{loader}.from_pretrained({str(self.run_directory / MODEL)!r})"
        return loading_line(self.setup.plan, self.weights, expected)


def base_weights(base: Base) -> dict[str, Tensor]:
    """A base's parameters and buffers on the CPU, under the names of its timm model or module."""
    trunk: nn.Module = base.trunk
    return _copied(trunk.state_dict())


def head_weights(attached: AttachedHead) -> dict[str, Tensor]:
    """A head's parameters and buffers (`head.*`) and those of its norm (`norm.*`) on the CPU.

    Its projection is left out: it belongs to the objective.
    """
    return {
        f"{part}.{name}": tensor
        for part, module in (("head", attached.head), ("norm", attached.norm))
        for name, tensor in _copied(module.state_dict()).items()
    }


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }


def loading_line(plan: BasePlan, weights: Path, expected: Normalization) -> str:
    """A line of Python code that builds a base with the weights of this file.

    `timm.data.resolve_model_data_config` of the model gives the image size and the normalisation
    that the base was trained with, in place of those of timm's own weights of this model.
    """
    arguments = "".join(f", {name}={value!r}" for name, value in plan.arguments.items())
    channels = plan.input_shape.channels
    overlay = {
        "input_size": plan.input_shape.tensor,
        "mean": expected.mean[:channels],
        "std": expected.std[:channels],
    }
    module = registered_by(plan.timm_name)
    return (
        f"{f'import {module}; ' if module else ''}"
        f"timm.create_model({plan.timm_name!r}, num_classes=0{arguments}, "
        f"checkpoint_path={str(weights)!r}, pretrained_cfg_overlay={overlay!r})"
    )


def _row(event: SoloScored, setup: TrainingSetup, candidate: Candidate | None) -> dict[str, Any]:
    """A row of pretrain.csv."""
    base = event.scores.base
    head = event.scores.heads[candidate.name] if candidate else None
    return {
        "rung": event.rung,
        "step": event.step,
        "images": event.step * setup.batch,
        **accuracy_columns("base", base.report),
        **accuracy_columns("choose", base.choose),
        "effective_rank": base.effective_rank,
        "loss": event.loss,
        **accuracy_columns("head", head.report if head else None),
        "discrepancy": head.discrepancy_value if head else math.nan,
        **other_data_columns(base.other_data.report, "base_"),
    }


@dataclass(frozen=True)
class Pretrained:
    """The results of a pretraining.

    Attributes:
        run_directory: its directory.
        weights: a safetensors file with the base alone, under timm's parameter names. The weights
            are those of the teacher, the moving average of the student, which is what was scored.
        scores: pretrain.csv, with a row for each rung.
        loading: a line of Python code that builds the base with these weights.
    """

    run_directory: Path
    weights: Path
    scores: pd.DataFrame
    loading: str
