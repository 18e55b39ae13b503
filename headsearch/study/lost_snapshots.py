"""What becomes of a search whose snapshots are lost: it is refused, or starts over on request."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna

from headsearch.errors import UserError
from headsearch.runs.directory import STUDY
from headsearch.runs.run import read_run, storage_of
from headsearch.runs.snapshot import FOLDER, Snapshot, check_start, has_damaged_snapshot
from headsearch.runs.tables import TABLES


def settle_start(
    run_directory: Path, settings: Mapping[str, Any], left: Snapshot | None, *, start_over: bool
) -> None:
    """Settles where a search in an existing directory starts: at its snapshot, or at step 0.

    Args:
        run_directory: the run's.
        settings: the content of config.yaml.
        left: its snapshot, if one could be read.
        start_over: whether it discards its results and starts from its first step.

    Raises:
        UserError: as `check_start`, or its files cannot be removed.
    """
    has_results = _has_results(run_directory)
    check_start(run_directory, left, has_results=has_results, start_over=start_over)
    if start_over:
        _discard_results(run_directory, settings)


def _has_results(run_directory: Path) -> bool:
    """Whether a search has trained, so that it must have had a snapshot."""
    run = read_run(run_directory)
    trained = run.facts.get("cost_base_equivalents", 0.0) > 0
    return trained or bool((run.rungs["rung"] > 0).any()) or has_damaged_snapshot(run_directory)


def _discard_results(run_directory: Path, settings: Mapping[str, Any]) -> None:
    """Removes snapshots, tables and study of a search; solo runs stay.

    Args:
        run_directory: the run's.
        settings: the content of config.yaml, which names the study and its storage.

    Raises:
        UserError: they cannot be removed.
    """
    try:
        shutil.rmtree(run_directory / FOLDER, ignore_errors=True)
        for name in (*TABLES, STUDY, f"{STUDY}-journal"):
            (run_directory / name).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{run_directory}: cannot write into it: {error.strerror}") from None
    if settings.get("storage"):
        with suppress(KeyError):  # there is no such study
            optuna.delete_study(
                study_name=settings["study_name"],
                storage=storage_of(run_directory, settings, create=True),
            )
