"""Reads a run directory back, and checks that a run is resumed with the settings it began with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import optuna
import pandas as pd
import yaml
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from sqlalchemy.exc import SQLAlchemyError

from headsearch.config.locations import absolute_locations, without_places
from headsearch.config.settings import OF_OLDER_RUNS, RunConfig
from headsearch.errors import UserError
from headsearch.runs.directory import CONFIG, abandoned, read_config, write_config
from headsearch.runs.facts import RunFacts
from headsearch.runs.storage import open_storage
from headsearch.runs.tables import (
    RANKING_COLUMNS,
    RUNG_COLUMNS,
    SCORE_COLUMNS,
    SOLO_COLUMNS,
    read_table,
)


@dataclass(frozen=True)
class Run:
    """A run directory, read back. Every part may be that of an unfinished run.

    Attributes:
        path: the directory.
        config: the contents of config.yaml: every resolved setting.
        facts: what the run recorded about itself (baselines, split sizes, costs); see
            `facts.py`.
        ranking: ranking.csv, a row a candidate; empty before rung 0 is scored.
        rungs: rungs.csv, a row a candidate and rung.
        scores: scores.csv, a row a candidate, rung and seed: the scores that may choose, on the
            labels that choose. Empty for runs made before it was written.
        solo: solo.csv, a row a finished solo run of `verify`; empty without any.
    """

    path: Path
    config: dict[str, Any]
    facts: RunFacts
    ranking: pd.DataFrame
    rungs: pd.DataFrame
    scores: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(SCORE_COLUMNS)))
    solo: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(SOLO_COLUMNS)))


UNREADABLE = (
    KeyError, ImportError, ValueError, RuntimeError, StorageInternalError, SQLAlchemyError,
)  # fmt: skip
"""Errors that opening a study can raise; RuntimeError if a later Optuna made it."""
SOLO_HEAD = "solo_head"
"""The key of config.yaml that names the head of a pretraining; a search has no such key."""
MAY_DIFFER = (
    "out", "device", "threads", "precision", "cuda_graphs", "compile", "snapshot_every",
    "git_commit", "versions", "study_name", "max_bad_images", "processes", "log",
    "data_fingerprint",
)  # fmt: skip
"""Settings that may change when a run is resumed, beside `LOCATIONS`. Bitwise equal results need
them unchanged too."""
_DEFAULTS = {**RunConfig().model_dump(mode="json"), **OF_OLDER_RUNS}
"""The settings of a run that was made before a setting existed."""


def check_same_settings(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run directory began with, if these are the same.

    Raises:
        UserError: a setting that affects the results has changed since.
    """
    file, begun = path / CONFIG, read_config(path)
    if not {"study_name", SOLO_HEAD} & begun.keys():
        # It ended before its data were opened, so no result depends on its settings yet.
        write_config(path, settings)
        return dict(settings)
    # Through YAML, as the settings in the file were: tuples become lists, for example.
    now = yaml.safe_load(yaml.safe_dump(dict(settings)))
    then, now = without_places({**_DEFAULTS, **begun}), without_places(now)
    changed = sorted(k for k in now if k not in MAY_DIFFER and then.get(k) != now[k])
    if changed:
        before, after = (str(values.get(changed[0])) for values in (then, now))
        change = f", from {before} to {after}" if len(before + after) < 80 else ""
        raise UserError(
            f"{file}: {changed[0].replace('_content', '')} has changed since the run "
            f"began{change}: it cannot be resumed"
        )
    places = absolute_locations(settings)
    if any(begun.get(name) != place for name, place in places.items() if name in begun):
        begun |= places
        write_config(path, begun)  # later commands find the data and the weights there too
    return {**now, **begun}


def storage_of(path: Path, config: Mapping[str, Any]) -> str | BaseStorage:
    """The storage of the run's Optuna study.

    Raises:
        UserError: the storage in the settings cannot be opened.
    """
    named = config.get("storage")
    return open_storage(str(named)) if named else f"sqlite:///{(path / 'study.db').absolute()}"


def is_pretraining(path: Path) -> bool:
    """Whether a run directory belongs to a pretraining, not to a search."""
    return (path / CONFIG).is_file() and SOLO_HEAD in read_config(path)


def read_run(path: Path) -> Run:
    """Reads a run directory, finished or not.

    Raises:
        UserError: there is no such directory, or it is not that of a search.
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
        ranking=read_table(path / "ranking.csv", RANKING_COLUMNS),
        rungs=read_table(path / "rungs.csv", RUNG_COLUMNS),
        scores=read_table(path / "scores.csv", SCORE_COLUMNS),
        solo=read_table(path / "solo.csv", SOLO_COLUMNS),
    )


def _read_facts(path: Path, config: Mapping[str, Any]) -> RunFacts:
    """The facts in the run's study; empty without a study or if its storage cannot be reached."""
    # Opening a SQLite study that does not exist would create it.
    if not config.get("storage") and not (path / "study.db").is_file():
        return {}
    try:
        study = optuna.load_study(
            study_name=str(config.get("study_name")), storage=storage_of(path, config)
        )
        facts = cast(RunFacts, dict(study.user_attrs.get("facts", {})))
    except UNREADABLE:
        return {}
    if facts.get("status") == "running" and abandoned(path):
        facts["status"] = "interrupted"  # the process ended before it could record that
    return facts
