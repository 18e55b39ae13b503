"""The console of the commands, and the final output of a search or a verification."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console

from headsearch import torchrun
from headsearch.runs.console import HarmlessConsole, loading_shown, say
from headsearch.runs.signals import InterruptedAtOnceError
from headsearch.runs.streams import best_effort

PIPE_WIDTH = 240
"""The width of tables, in columns, if the output is not a terminal."""


def console_here() -> Console:
    """The console that commands print to."""
    width = None if best_effort(sys.stdout).isatty() else PIPE_WIDTH
    return HarmlessConsole(highlight=False, markup=False, width=width)


def end(signal: int, run_directory: Path, console: Console) -> None:
    """Says how to resume a run that a signal stopped, and exits with the signal's exit code.

    Args:
        signal: the number of the signal; 0 if the run ended, and then nothing happens.
        run_directory: the directory of the run.
        console: where to print.
    """
    if signal:
        how = f"headsearch resume {run_directory}"
        say(console, f"interrupted, all progress is saved: {how} continues from here")
        raise typer.Exit(128 + signal)


@contextmanager
def resumable(console: Console, how: str | None = None) -> Iterator[None]:
    """In this block a run that is interrupted at once is said to be resumable.

    Args:
        how: the command that continues it; by default `headsearch resume RUN`.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if not isinstance(interrupt, InterruptedAtOnceError):
            raise
        how = how or f"headsearch resume {interrupt.run_directory}"
        if interrupt.begun:
            say(console, f"interrupted at once: {how} continues from the last snapshot")
        else:
            say(console, f"interrupted before the first step: {how} starts it")
        raise typer.Exit(128 + interrupt.number) from None


@contextmanager
def importing(console: Console) -> Iterator[None]:
    """In this block, PyTorch and what needs it are imported, which takes seconds."""
    with loading_shown(console if torchrun.first() else None) as loading:
        loading("importing PyTorch")
        yield


def conclude(run_directory: Path, console: Console, out: Path | None = None) -> None:
    """Writes the report, and prints the final tables, the advice and the path of the report.

    Args:
        run_directory: the directory of the run.
        console: where to print.
        out: the directory of the report; by default that of the run.
    """
    from headsearch.report import (
        advice,
        ranking_legend,
        ranking_table,
        verdict,
        verified_table,
        write_report,
    )
    from headsearch.report.console import print_table
    from headsearch.report.statistics.gains import verified
    from headsearch.runs.run import read_run

    found = read_run(run_directory)
    where = write_report(found, out)
    if len(found.ranking):
        console.print()
        print_table(console, ranking_table(found, compact=True))
        say(console, ranking_legend(found))
        console.print()
    say(console, advice(found))
    solo, table = verified(found), verified_table(found)
    if solo is not None and table is not None:
        console.print()
        print_table(console, table)
        console.print()
        say(console, verdict(solo))
    console.print(f"report: {where}", soft_wrap=True)


def end_without_heads(run_directory: Path) -> None:
    """Exits with code 1 if a search has ended and every candidate failed.

    The advice, which is printed by then, gives the reason. Collapsed heads are a result.
    """
    from headsearch.runs.run import read_run
    from headsearch.runs.tables import ranked

    found = read_run(run_directory)
    rows = ranked(found.ranking)
    if (
        found.facts.get("status") == "complete"
        and rows
        and all(row.state == "failed" for row in rows)
    ):
        raise typer.Exit(1)
