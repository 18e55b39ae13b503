"""How an attempt at a job begins where an earlier one was: with a copy of its newest snapshot."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from headsearch.cluster.driver import attempt_folders, attempt_number
from headsearch.errors import UserError
from headsearch.runs.directory import CONFIG, STUDY
from headsearch.runs.snapshot import FOLDER, read_record

RUN = "run"
"""The folder of an attempt that holds its run directory."""


def begin(attempt: Path) -> tuple[Path, bool]:
    """The run directory of an attempt, and whether it has a snapshot to go on from.

    Nothing of an earlier attempt is changed: its process may still run, or wake up.

    Args:
        attempt: the folder of the attempt, which the driver has made.
    """
    directory = attempt / RUN
    job = attempt.with_name(attempt.name.rpartition(".")[0])
    earlier = [
        each for each in attempt_folders(job) if attempt_number(each) < attempt_number(attempt)
    ]
    for each in sorted(earlier, key=attempt_number, reverse=True):
        if _taken_over(each / RUN, directory):
            return directory, True
    return directory, False


def _taken_over(source: Path, directory: Path) -> bool:
    """Copies a run directory with its snapshots; returns False if it has none that can be read."""
    partial = directory.with_name(".copying")
    try:
        if read_record(source) is None:
            return False
        shutil.rmtree(partial, ignore_errors=True)
        # Snapshots are replaced as a whole and never changed, so another name for them suffices.
        shutil.copytree(source / FOLDER, partial / FOLDER, copy_function=_linked)
        shutil.copy(source / CONFIG, partial / CONFIG)
        if (source / STUDY).is_file():  # after the snapshot: a study may be ahead of it
            _copy_database(source / STUDY, partial / STUDY)
        partial.replace(directory)
    except (OSError, sqlite3.Error, UserError):
        shutil.rmtree(partial, ignore_errors=True)
        return False
    return True


def _linked(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return target


def _copy_database(source: Path, target: Path) -> None:
    """Copies a SQLite file, whether its process still writes to it or died while it did."""
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as old,
            closing(sqlite3.connect(target)) as new,
        ):
            old.backup(new)
    except sqlite3.Error:  # a transaction was cut off: whoever opens the copy takes it back
        shutil.copyfile(source, target)
        journal = source.with_name(f"{source.name}-journal")
        if journal.is_file():
            shutil.copyfile(journal, target.with_name(f"{target.name}-journal"))
