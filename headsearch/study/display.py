"""How a search is shown while it runs: a live table in a terminal, a line a rung elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table as RichTable
from rich.text import Text

from headsearch.models.network import BASE
from headsearch.report.console import print_notes, progress_line, say, speed_words
from headsearch.report.tensorboard import Points, tag
from headsearch.study.events import Advanced, Event, Noted, Scored
from headsearch.study.leaderboard import Entry, Leaderboard
from headsearch.study.search import Search

STATE_STYLES = {
    "running": "",
    "complete": "green",
    "pruned": "dim",
    "collapsed": "yellow",
    "failed": "red",
}
LIVE_ROWS = 30
"""Heads that the live table shows at most; the ranking afterwards has them all."""


@contextmanager
def shown(search: Search, console: Console) -> Iterator[Callable[[Event], None]]:
    """The observer that shows a search: a live table in a terminal, a line a rung elsewhere."""
    if not console.is_terminal:
        yield _Lines(console, search)
        return
    first = Text("attaching the heads and scoring the untrained network …")
    with Live(first, console=console, refresh_per_second=4, transient=True) as live:
        yield _LiveTable(console, search, live)


def points_of(event: Event, seeds: int) -> Points | None:
    """The points of TensorBoard's curves that an event has; None where it has none."""
    if isinstance(event, Scored):
        live = len(event.leaderboard.live(event.cohort))
        scores = {BASE: event.scores.base, **event.scores.heads}
        values: dict[str, float] = {
            tag(chart, name): value
            for name, own in scores.items()
            for chart, value in own.charts().items()
        }
        # the step of a rung is that of each seed, and curves count those of all seeds
        step, values["search/live heads"] = event.step * seeds, live
    elif isinstance(event, Advanced) and event.read:
        entries = event.leaderboard.live(event.cohort)
        losses = {BASE: event.base_loss, **{e.candidate.name: e.loss for e in entries}}
        values = {tag("loss", name): loss for name, loss in losses.items()}
        step = event.step
        values["speed/images per second"] = event.throughput.images_per_second
    else:
        return None
    return Points(step, values, isinstance(event, Scored), f"cohort-{event.cohort + 1}")


class _Lines:
    """One plain line a rung."""

    def __init__(self, console: Console, search: Search) -> None:
        self._console = console
        self._rungs = search.config.rungs
        self._gone: set[str] = set()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Scored):
            say(self._console, self._line(event))
        elif isinstance(event, Noted):
            print_notes(self._console, [event.text])

    def _line(self, event: Scored) -> str:
        entries = list(event.leaderboard.entries.values())
        cohort = [s for s in entries if s.cohort == event.cohort]
        live = sum(s.state == "running" for s in cohort)
        left = [s for s in cohort if _left_early(s) and s.candidate.name not in self._gone]
        self._gone.update(s.candidate.name for s in left)
        best = max(
            (s for s in cohort if s.scores and s.rungs == event.rung and s.state != "collapsed"),
            key=lambda s: (not s.candidate.control, s.score if s.score == s.score else -math.inf),
            default=None,
        )
        parts = [f"cohort {event.cohort + 1} rung {event.rung}/{self._rungs}", f"step {event.step}"]
        if event.scores.base.report is not None:
            parts.append(f"base k-NN {100 * event.scores.base.report.knn:.1f}%")
        if best is not None:
            parts.append(f"best {best.candidate.name} ({_figures(best)})")
        parts.append(f"{live} heads live" if event.rung < self._rungs else "complete")
        if left:
            names = (
                s.candidate.name + ("" if s.state == "pruned" else f" ({s.reason})") for s in left
            )
            parts.append(f"left: {', '.join(names)}")
        parts += speed_words(event.throughput, last=event.rung == self._rungs)
        return " | ".join(parts)


class _LiveTable:
    """A live table, a row a head."""

    def __init__(self, console: Console, search: Search, live: Live) -> None:
        self._console, self._live = console, live
        self._steps = search.prepared.training.steps * search.config.seeds
        self._rungs = search.config.rungs
        self._stop = search.stop

    def __call__(self, event: Event) -> None:
        if isinstance(event, Noted):
            print_notes(self._console, [event.text])  # stays, above the table
        else:
            self._live.update(self._draw(event))

    def _draw(self, event: Advanced | Scored) -> RenderableType:
        rows = RichTable(box=None, pad_edge=False, header_style="bold")
        rows.add_column("Head", no_wrap=True)
        rows.add_column("Family", no_wrap=True)
        for heading in ("Loss", "Discrepancy", "k-NN %", "Linear %"):
            rows.add_column(heading, justify="right", no_wrap=True)
        rows.add_column("State", no_wrap=True)
        shown = _in_order(event.leaderboard, event.cohort)
        room = max(5, min(LIVE_ROWS, self._console.size.height - 6))
        for entry in shown[:room]:
            rows.add_row(*_cells(entry), style=STATE_STYLES[entry.state])
        rung = max(entry.rungs for entry in shown)
        parts: list[RenderableType] = [self._headline(event, rung), rows]
        if len(shown) > room:
            parts.append(Text(f"… and {len(shown) - room} more", style="dim"))
        return Group(*parts)

    def _headline(self, event: Advanced | Scored, rung: int) -> RenderableType:
        words = ["stopping after this step"] if self._stop.is_set() else []
        words += [
            f"cohort {event.cohort + 1}/{event.throughput.cohorts}",
            f"rung {rung}/{self._rungs}",
        ]
        return progress_line(words, event.step, self._steps, event.throughput)


def _in_order(leaderboard: Leaderboard, cohort: int) -> list[Entry]:
    """A cohort's heads: those that train first, the best on top."""

    def place_of(entry: Entry) -> tuple[bool, int, float]:
        score = entry.score if entry.score == entry.score else -math.inf
        return _left_early(entry), -entry.rungs, -score

    return sorted((s for s in leaderboard.entries.values() if s.cohort == cohort), key=place_of)


def _left_early(entry: Entry) -> bool:
    return entry.state in ("pruned", "collapsed", "failed")


def _cells(entry: Entry) -> Iterator[Text]:
    scores = entry.scores
    difference = scores.discrepancy if scores else None
    reported = scores.report if scores else None
    yield Text(entry.candidate.name)
    yield Text(entry.candidate.family)
    yield Text(f"{entry.loss:.3f}" if entry.loss == entry.loss else "")
    yield Text(f"{difference.value:.3f}" if difference else "")
    yield Text(f"{100 * reported.knn:.1f}" if reported else "")
    yield Text(f"{100 * reported.linear:.1f}" if reported else "")
    rung = f" at rung {entry.rungs}" if _left_early(entry) else ""
    yield Text(f"{entry.state}{rung}")


def _figures(entry: Entry) -> str:
    scores = entry.scores
    assert scores is not None
    words = []
    if scores.discrepancy is not None:
        words.append(f"discrepancy {scores.discrepancy.value:.3f}")
    if scores.report is not None:
        words.append(f"k-NN {100 * scores.report.knn:.1f}%")
    return ", ".join(words)
