"""Reads a run directory back, finished or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import optuna
import pandas as pd
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from sqlalchemy.exc import SQLAlchemyError

from headsearch.config.base_names import is_of_transformers
from headsearch.config.domains import AUDIO, Words, words_of
from headsearch.config.settings import resolve
from headsearch.config.yaml_file import read_yaml
from headsearch.errors import UserError
from headsearch.runs.directory import CONFIG, STUDY, abandoned, in_use, read_config
from headsearch.runs.facts import RunFacts
from headsearch.runs.other_data_tables import DENSE, read_other_data
from headsearch.runs.other_data_tables import TASKS as FURTHER_TASKS
from headsearch.runs.rank_by import check_rank_by
from headsearch.runs.snapshot import read_record
from headsearch.runs.storage import existing_storage, file_storage, open_storage
from headsearch.runs.tables import (
    RANKING_COLUMNS,
    RUNG_COLUMNS,
    SCORE_COLUMNS,
    SOLO_COLUMNS,
    TABLES,
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
        dense: dense.csv, a row a representation and dense score; empty without dense data.
        tasks: tasks.csv, a row a representation, further task and score; empty without tasks.
    """

    path: Path
    config: dict[str, Any]
    facts: RunFacts
    ranking: pd.DataFrame
    rungs: pd.DataFrame
    scores: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(SCORE_COLUMNS)))
    solo: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(SOLO_COLUMNS)))
    dense: pd.DataFrame = field(default_factory=DENSE.empty)
    tasks: pd.DataFrame = field(default_factory=FURTHER_TASKS.empty)

    @property
    def words(self) -> Words:
        """What the data of its domain are called."""
        domain, base = str(self.config.get("domain")), str(self.config.get("base"))
        words = words_of(domain)
        of_waveforms = domain == AUDIO and is_of_transformers(base)
        return replace(words, point="sample") if of_waveforms else words


UNREADABLE = (
    KeyError, ImportError, ValueError, RuntimeError, StorageInternalError, SQLAlchemyError,
)  # fmt: skip
"""Errors that opening a study can raise; RuntimeError if a later Optuna made it."""
SOLO_HEAD = "solo_head"
"""The key of config.yaml that names the head of a pretraining; a search has no such key."""
MAPPINGS = ("versions", "base_arguments", "first_weights", "space_content", "fleet")
"""Keys of config.yaml whose values are mappings."""


def storage_of(path: Path, config: Mapping[str, Any], *, create: bool) -> BaseStorage:
    """The storage of the run's Optuna study.

    Args:
        path: the run directory.
        config: its settings.
        create: whether a storage that does not exist yet is set up; if not, nothing is written.

    Raises:
        UserError: the storage in the settings cannot be opened.
        Exception: one of `UNREADABLE`, if the run's own file cannot be opened.
    """
    named = config.get("storage")
    if named:
        return open_storage(str(named)) if create else existing_storage(str(named))
    return file_storage(path / STUDY, create=create)


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
    _check_config(path / CONFIG)
    return Run(
        path=path,
        config=config,
        facts=_read_facts(path, config),
        ranking=read_table(path / "ranking.csv", RANKING_COLUMNS),
        rungs=read_table(path / "rungs.csv", RUNG_COLUMNS),
        scores=read_table(path / "scores.csv", SCORE_COLUMNS),
        solo=read_table(path / "solo.csv", SOLO_COLUMNS),
        dense=read_other_data(path, DENSE),
        tasks=read_other_data(path, FURTHER_TASKS),
    )


def is_running(run: Run) -> bool:
    """Whether a search is going on, as far as that can be seen from this machine.

    Of a search on another machine, only what it recorded last is known.
    """
    use, status = in_use(run.path), run.facts.get("status", "running")
    if use is None:
        return status == "running"
    return use and status != "complete"  # a complete one may be in use by `verify`


def is_complete(path: Path) -> bool:
    """Whether a search has ended and its tables are there, so that there is nothing to resume.

    Raises:
        UserError: as `read_run`.
    """
    complete = read_run(path).facts.get("status") == "complete"
    written = all((path / name).is_file() for name in TABLES)
    return complete and (written or read_record(path) is None)  # only a snapshot could give them


def _check_config(file: Path) -> None:
    """Checks a run's own config.yaml, which somebody may have edited.

    Raises:
        UserError: a value cannot be that of a run, with the file and the field.
    """
    resolve({}, file)
    entries = read_yaml(file).mapping("the settings")
    for name in MAPPINGS:
        if name in entries and entries[name].value is not None:
            entries[name].mapping(name)
    if isinstance(rank_by := entries["rank_by"].value if "rank_by" in entries else None, str):
        try:
            check_rank_by(rank_by)
        except UserError as error:
            raise entries["rank_by"].error(error) from None


def _read_facts(path: Path, config: Mapping[str, Any]) -> RunFacts:
    """The facts in the run's study; empty without a study or if its storage cannot be reached."""
    try:
        storage = storage_of(path, config, create=False)
        study = optuna.load_study(study_name=str(config.get("study_name")), storage=storage)
        facts = cast(RunFacts, dict(study.user_attrs.get("facts", {})))
    except UNREADABLE:
        return {}
    if facts.get("status") == "running" and abandoned(path):
        facts["status"] = "interrupted"  # the process ended before it could record that
    return facts
