"""Follows a search from another process: its report is written again whenever it has new scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import sleep
from typing import TypeAlias

from headsearch.report.document import write_report
from headsearch.report.statistics.ranking import best_head, last_rung
from headsearch.runs.other_data_tables import DENSE, TASKS
from headsearch.runs.run import Run, is_running, read_run
from headsearch.runs.tables import TABLES, ranked
from headsearch.text import counted

READ = (*TABLES, DENSE.file, TASKS.file, "solo.csv", "config.yaml")
"""The files that a report depends on, besides the study."""
TRIES = 10
"""How often files that change while they are read are read again."""

Stamp: TypeAlias = tuple[tuple[int, int, int] | None, ...]


def follow(
    path: Path,
    *,
    every_s: float,
    out: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Run:
    """Writes the report of a search at every change of its tables, until the search has ended.

    The search is only read, and does not notice. While it runs, the page loads itself again; the
    last page, at the end, does not. If an interrupt ends this function, the last page is that of
    the caller (`write_report`).

    Args:
        path: the run directory.
        every_s: the seconds between two looks at the tables, and between two loads of the page.
        out: the directory of the report; by default the run directory.
        tell: called with what is new, in words.

    Returns:
        The search as it ended.

    Raises:
        UserError: the directory is no search's, or the report cannot be written.
    """
    seen: Stamp | None = None
    while True:
        run, stamp = _read(path)
        running = is_running(run)
        if not running:
            run, stamp = _read(path)  # it may have ended after it was read
        if stamp != seen or not running:
            write_report(run, out, refresh_s=max(1, round(every_s)) if running else None)
        if stamp != seen:
            tell(_news(run))
        if not running:
            return run
        seen = stamp
        sleep(every_s)


def _read(path: Path) -> tuple[Run, Stamp]:
    """The run and the stamp of its files.

    Each file is replaced as a whole, but one after the other: they are read again until none was
    replaced meanwhile.
    """
    for _ in range(TRIES):
        before = _stamp(path)
        run = read_run(path)
        if _stamp(path) == before:
            break
    return run, before


def _stamp(path: Path) -> Stamp:
    """When each file was last written; None for a file that does not exist."""
    return tuple(_of_file(path / name) for name in READ)


def _of_file(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _news(run: Run) -> str:
    """What the tables hold, in a line."""
    rung = last_rung(run)
    if rung is None:
        return "no rung scored yet"
    total = run.facts.get("rung_count") or run.config.get("rungs") or "?"
    heads = ranked(run.ranking)
    best = best_head(heads)
    first = f", {best.candidate} is first" if best is not None else ""
    return f"rung {rung} of {total} scored: {counted(len(heads), 'head')}{first}"


def ending(run: Run) -> str:
    """How a search that is not running ended, in a sentence."""
    resume = f"`headsearch resume {run.path}` continues it"
    endings = {
        "complete": "the search is complete",
        "interrupted": f"the search was interrupted, or its process was killed: {resume}",
        "failed": f"the search failed, and its own output says why; then {resume}",
    }
    unknown = "no process runs this search, and its study does not say how it ended"
    return endings.get(run.facts.get("status", ""), unknown)
