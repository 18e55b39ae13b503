"""Where commands print to, and what all that search or verify end with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 240
"""Columns that a table may take where no terminal limits it."""


def console_here() -> Console:
    """The console that commands print to."""
    from headsearch.report.console import HarmlessConsole

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return HarmlessConsole(highlight=False, markup=False, width=width)


def end(signal: int, run_directory: Path, console: Console) -> None:
    """Says how a run that a signal stopped is resumed, and exits with the signal's code.

    Args:
        signal: its number; 0 for none, where the command goes on.
    """
    if signal:
        from headsearch.report.console import say

        how = f"headsearch resume {run_directory}"
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
