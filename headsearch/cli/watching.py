"""The command `watch`: a page that follows a running search."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from headsearch.cli.flags import RunArgument
from headsearch.cli.output import console_here


def watch(
    run: RunArgument,
    every: Annotated[
        float,
        typer.Option(min=1, help="Seconds between two looks at RUN, and two loads of the page."),
    ] = 10.0,
    out: Annotated[
        Path | None,
        typer.Option(help="A directory to write into; RUN is only read. \\[default: RUN]"),
    ] = None,
) -> None:
    """Follow a running search: write its report again whenever it has new scores.

    A browser that shows report.html loads it again by itself. Ends when the search ends; Ctrl-C \
ends watching and not the search.

    Example: [bold]headsearch watch results/RUN[/bold]
    """
    from headsearch.report import write_report
    from headsearch.report.watching import ending, follow
    from headsearch.runs.console import say
    from headsearch.runs.run import read_run

    console = console_here()
    found = read_run(run)
    console.print(f"page: {(out or run) / 'report.html'}", soft_wrap=True)
    say(console, "Ctrl-C ends watching, not the search")
    try:
        found = follow(run, every_s=every, out=out, tell=lambda text: say(console, text))
    except KeyboardInterrupt as interrupt:
        page = write_report(read_run(run), out)
        say(console, f"no longer watching {run}, which goes on by itself; report: {page}")
        number = next((n for n in interrupt.args if isinstance(n, int)), int(signal.SIGINT))
        raise typer.Exit(128 + number) from None
    say(console, ending(found))
    if found.facts.get("status") != "complete":
        raise typer.Exit(1)
