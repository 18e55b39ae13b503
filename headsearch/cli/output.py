"""Where commands print to, and what all that search or verify end with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 240
"""Columns that a table may take where no terminal limits it."""


def console_here() -> Console:
    """The console that commands print to."""
    from headsearch.terminal import HarmlessConsole

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return HarmlessConsole(highlight=False, markup=False, width=width)


def conclude(run_directory: Path, console: Console) -> None:
    """The final table, the advice, and where the report lies."""
    from headsearch.checkpoint import read_run
    from headsearch.console import print_table, say
    from headsearch.gains import verified
    from headsearch.report import advice, ranking_table, verdict, verified_table, write_report

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
