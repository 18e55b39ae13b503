"""What a run leaves in its directory, and how that is read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import yaml
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from safetensors.torch import save
from sqlalchemy.exc import SQLAlchemyError
from torch import Tensor

from headsearch.config.settings import RunConfig
from headsearch.errors import UserError
from headsearch.run_directory import CONFIG, abandoned, read_config, write_atomically, write_config
from headsearch.storage import open_storage
from headsearch.text import for_csv, printable

RANKING_COLUMNS = (
    "rank",
    "candidate",
    "family",
    "cohort",
    "state",
    "rungs",
    "score",
    "discrepancy",
    "discrepancy_low",
    "discrepancy_high",
    "head_knn",
    "head_linear",
    "effective_rank",
    "params_m",
    "gflops",
    "step_ms",
    "reason",
)
RUNG_COLUMNS = (
    "candidate",
    "cohort",
    "rung",
    "step",
    "images",
    "discrepancy",
    "head_knn",
    "head_linear",
    "base_knn",
    "base_linear",
    "loss",
)
SCORE_COLUMNS = (
    "candidate",
    "seed",
    "rung",
    "step",
    "score",
    "discrepancy",
    "cka",
    "mutual_knn",
    "procrustes",
    "choose_knn",
    "choose_linear",
    "base_choose_knn",
    "base_choose_linear",
    "effective_rank",
    "loss",
)
SOLO_COLUMNS = (
    "candidate",
    "family",
    "seed",
    "base_knn",
    "base_linear",
    "choose_knn",
    "choose_linear",
)
STATES = ("running", "complete", "pruned", "collapsed", "failed")
_TEXT_COLUMNS = {"candidate", "family", "state", "reason"}


@dataclass(frozen=True)
class Run:
    """A run directory, read back. Every part may be that of an unfinished run.

    Attributes:
        path: the directory.
        config: the contents of config.yaml: every resolved setting.
        facts: what the run measured about itself (baselines, split sizes, cost); see `study.py`.
        ranking: ranking.csv, a row a candidate; no rows before rung 0 is scored.
        rungs: rungs.csv, a row a candidate and rung.
        scores: scores.csv, a row a candidate, rung and seed: all that may choose, measured on the
            labels that choose; no rows in runs of before it was written.
        solo: solo.csv, a row a solo run of `verify` that has ended; no rows without any.
    """

    path: Path
    config: dict[str, Any]
    facts: dict[str, Any]
    ranking: pd.DataFrame
    rungs: pd.DataFrame
    scores: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(SCORE_COLUMNS)))
    solo: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(SOLO_COLUMNS)))


UNREADABLE = (
    KeyError, ImportError, ValueError, RuntimeError, StorageInternalError, SQLAlchemyError,
)  # fmt: skip
"""What opening a study raises; RuntimeError where a later Optuna made it."""
SOLO_HEAD = "solo_head"
"""What config.yaml of a pretraining calls its head; no search's has it."""
MAY_DIFFER = (
    "out", "device", "threads", "precision", "cuda_graphs", "compile", "snapshot_every",
    "git_commit", "versions", "study_name", "max_bad_images", "processes", "log",
)  # fmt: skip
"""What a run may be gone on with otherwise than it was begun; the same bits need them all alike."""
_DEFAULTS = RunConfig().model_dump(mode="json")
"""What a run of before a setting was there did."""


def same_settings(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run directory was begun with, where these are the same.

    Raises:
        UserError: something has changed since that decides what the run finds.
    """
    file, begun = path / CONFIG, read_config(path)
    if not {"study_name", SOLO_HEAD} & begun.keys():
        # it ended before its data were opened: nothing hangs on it yet
        write_config(path, settings)
        return dict(settings)
    now = yaml.safe_load(yaml.safe_dump(dict(settings)))
    then = {**_DEFAULTS, **begun}
    changed = sorted(k for k in now if k not in MAY_DIFFER and then.get(k) != now[k])
    if changed:
        before, after = (str(of.get(changed[0])) for of in (then, now))
        values = f", from {before} to {after}" if len(before + after) < 80 else ""
        raise UserError(
            f"{file}: {changed[0].replace('_content', '')} has changed since the run "
            f"began{values}: it cannot be gone on with"
        )
    return {**now, **begun}


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Writes a table as CSV, whole or not at all; no text in it is a formula."""
    for name in frame.columns:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            cells = (for_csv(cell) if isinstance(cell, str) else cell for cell in frame[name])
            frame = frame.assign(**{name: list(cells)})
    write_atomically(path, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def write_weights(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes contiguous tensors that share no memory as safetensors, whole or not at all."""
    write_atomically(path, save(tensors, metadata={"format": "pt"}))


def storage_of(path: Path, config: Mapping[str, Any]) -> str | BaseStorage:
    """Where the run's Optuna study lives.

    Raises:
        UserError: the storage that it names cannot be opened.
    """
    named = config.get("storage")
    return open_storage(str(named)) if named else f"sqlite:///{(path / 'study.db').absolute()}"


def is_pretraining(path: Path) -> bool:
    """Whether a run directory is one of a pretraining, not of a search."""
    return (path / CONFIG).is_file() and SOLO_HEAD in read_config(path)


def read_run(path: Path) -> Run:
    """Reads a run directory back, finished or not.

    Raises:
        UserError: there is no such directory, or it is no run's.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such run directory")
    config = read_config(path)
    if SOLO_HEAD in config:
        raise UserError(f"{path}: a pretraining with one head, not a search: it ranks nothing")
    return Run(
        path=path,
        config=config,
        facts=_read_facts(path, config),
        ranking=_read_table(path / "ranking.csv", RANKING_COLUMNS),
        rungs=_read_table(path / "rungs.csv", RUNG_COLUMNS),
        scores=_read_table(path / "scores.csv", SCORE_COLUMNS),
        solo=_read_table(path / "solo.csv", SOLO_COLUMNS),
    )


def _read_facts(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The facts in the run's study; none where it has none or its storage is out of reach."""
    if not config.get("storage") and not (path / "study.db").is_file():
        return {}
    try:
        study = optuna.load_study(
            study_name=str(config.get("study_name")), storage=storage_of(path, config)
        )
        facts = dict(study.user_attrs.get("facts", {}))
    except UNREADABLE:
        return {}
    if facts.get("status") == "running" and abandoned(path):
        facts["status"] = "interrupted"  # by what left it no time to say so
    return facts


def _read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    if not path.is_file():
        return pd.DataFrame(columns=list(columns))
    try:
        frame: pd.DataFrame = pd.read_csv(
            path, dtype=dict.fromkeys(_TEXT_COLUMNS, str), keep_default_na=True, na_filter=True
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a table of a run: {str(error).splitlines()[0]}") from None
    if frame.empty:
        frame = frame.astype({name: float for name in columns if name in frame.columns})
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise UserError(f"{path}: not a table of a run: it has no column {missing[0]!r}")
    for column in columns:
        if column not in _TEXT_COLUMNS and not pd.api.types.is_numeric_dtype(frame[column]):
            raise UserError(f"{path}: column {column!r} holds something other than numbers")
    for column in _TEXT_COLUMNS & set(columns):  # others wrote it, and plots and tables show it
        frame[column] = frame[column].map(printable, na_action="ignore")
    if "state" in columns and not set(frame["state"]) <= set(STATES):
        strange = sorted(set(map(str, frame["state"])) - set(STATES))
        raise UserError(f"{path}: no such state of a candidate: {strange[0]!r}")
    return frame
