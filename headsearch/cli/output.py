"""Where commands print to, and what all that search or verify end with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from headsearch.pretraining.run import Pretraining
    from headsearch.study.search import Search

R = TypeVar("R", "Search", "Pretraining")

PIPE_WIDTH = 240
"""Columns that a table may take where no terminal limits it."""


def console_here() -> Console:
    """The console that commands print to."""
    from headsearch.report.console import HarmlessConsole

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return HarmlessConsole(highlight=False, markup=False, width=width)


@contextmanager
def until_stopped(running: R, shown_by: Callable[[R, Console], int]) -> Iterator[Console]:
    """Runs a search or a pretraining to its end, or to where it is told to stop.

    The block says what it came to; how a stopped one goes on is said after that.
    """
    from headsearch.report.console import print_notes, say

    console = console_here()
    print_notes(console, running.notes)
    console.print(f"run directory: {running.run_directory}", soft_wrap=True)
    how = f"headsearch resume {running.run_directory}"
    try:
        signal = shown_by(running, console)
    except KeyboardInterrupt:
        say(console, f"interrupted at once: {how} goes on from the last snapshot")
        raise typer.Exit(130) from None
    yield console
    if signal:
        say(console, f"interrupted, with all that was done kept: {how} goes on from here")
        raise typer.Exit(128 + signal)


def conclude(run_directory: Path, console: Console) -> None:
    """The final table, the advice, and where the report lies."""
    from headsearch.report import advice, ranking_table, verdict, verified_table, write_report
    from headsearch.report.console import print_table, say
    from headsearch.report.statistics.gains import verified
    from headsearch.runs.run import read_run

    found = read_run(run_directory)
    where = write_report(found)
    if len(found.ranking):
        console.print()
        print_table(console, ranking_table(found, compact=True))
        console.print()
    say(console, advice(found))
    solo, table = verified(found), verified_table(found)
    if solo is not None and table is not None:
        console.print()
        print_table(console, table)
        console.print()
        say(console, verdict(solo))
    console.print(f"report: {where}", soft_wrap=True)
