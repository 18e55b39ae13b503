"""Made-up runs as run directories: settings, tables and the facts in their study."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import optuna

from headsearch.runs.directory import STUDY, create, write_config
from headsearch.runs.run import Run
from headsearch.runs.storage import file_storage
from headsearch.runs.tables import write_table

NAME = "made-up"
"""The name of the studies."""


def write_run(run: Run) -> Path:
    """Writes a run into its directory, anew or over what is there; returns the directory."""
    config = {**run.config, "study_name": NAME}
    if not run.path.exists():
        create(run.path, config)
        (run.path / STUDY).write_bytes(_empty_study())
    write_config(run.path, config)
    for name in ("ranking", "rungs", "scores"):
        frame = getattr(run, name)
        if len(frame):
            write_table(run.path / f"{name}.csv", frame)
    write_facts(run)
    return run.path


def write_facts(run: Run) -> None:
    """Writes the facts of a run into its study, and nothing else."""
    storage = file_storage(run.path / STUDY, create=False)
    optuna.load_study(study_name=NAME, storage=storage).set_user_attr("facts", dict(run.facts))


@cache
def _empty_study() -> bytes:
    """A database with an empty study; to set one up takes a second."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / STUDY
        optuna.create_study(study_name=NAME, storage=file_storage(file, create=True))
        return file.read_bytes()
