"""Progress of jobs on an engine: a live view in a terminal, else one line for what happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.text import Text

from headsearch.cluster.driver import DriverEvent, Job, JobStates, Note
from headsearch.report import Table
from headsearch.report.console import fitted_table, progress_bar
from headsearch.report.live import can_redraw, live_area
from headsearch.runs.console import say
from headsearch.text import counted

FIRST = "waiting for a machine …"
HEADINGS = ["Job", "Attempt", "Machine", "Step", "Last rung"]
NUMERIC = [False, True, False, True, False]


@contextmanager
def shown(console: Console, what: str) -> Iterator[Callable[[DriverEvent], None]]:
    """The observer that shows jobs.

    Args:
        console: where to show them.
        what: what a job is: cohort or solo run.
    """

    def print_news(event: DriverEvent) -> None:
        if isinstance(event, Note):
            say(console, event.text)
        elif event.ended is not None and event.ended.state == "done":
            done = sum(job.state == "done" for job in event.jobs)
            say(console, f"{event.ended.name} done | {done} of {counted(len(event.jobs), what)}")

    say(console, FIRST)
    if not can_redraw(console):
        yield print_news
        return
    with live_area(console, Text(FIRST)) as draw:

        def observe(event: DriverEvent) -> None:
            print_news(event)
            if isinstance(event, JobStates):
                draw(_drawn(console, event, what))

        yield observe


def _drawn(console: Console, found: JobStates, what: str) -> RenderableType:
    """The live view: how much is done, and the jobs that train."""
    jobs, running = found.jobs, [job for job in found.jobs if job.state == "running"]
    states = [job.state for job in jobs]
    words = [
        f"{states.count('done')}/{counted(len(jobs), what)} done",
        f"{len(running)} training",
        f"{states.count('waiting')} waiting",
        f"{states.count('set aside')} set aside" if "set aside" in states else "",
        counted(found.machines, "machine"),
    ]
    done = states.count("done") + sum(map(_share, running))
    bar = progress_bar(console, words, done, len(jobs))
    room = max(3, console.size.height - 6)
    rows = [list(_cells(job)) for job in running[:room]]
    if not rows:
        return bar
    parts = [bar, fitted_table(Table(HEADINGS, NUMERIC, rows), console.width)[0]]
    if len(running) > room:
        parts.append(Text(f"… and {len(running) - room} more", style="dim"))
    return Group(*parts)


def _share(job: Job) -> float:
    """How much of a job is done, from 0 to 1."""
    attempt = job.attempt
    return attempt.step / attempt.steps if attempt is not None and attempt.steps else 0.0


def _cells(job: Job) -> Iterator[str]:
    attempt = job.attempt
    assert attempt is not None
    yield job.name
    yield str(attempt.number)
    yield attempt.host
    yield f"{attempt.step}/{attempt.steps}" if attempt.steps else "loading"
    yield attempt.rung
