"""Progress of a search on the console: a live table in a terminal, else one line for each rung."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.text import Text

from headsearch.models.network import BASE
from headsearch.report import Table
from headsearch.report.console import fitted_table, progress_bar, speed_words, step_words
from headsearch.report.live import can_redraw, live_area
from headsearch.report.tensorboard import Points, tag
from headsearch.runs.console import print_notes, say
from headsearch.study.events import Advanced, Event, Noted, Scored, Scoring
from headsearch.study.leaderboard import Entry, Leaderboard
from headsearch.study.search import Search
from headsearch.text import counted, duration

STATE_STYLES = {
    "running": "",
    "complete": "green",
    "pruned": "dim",
    "collapsed": "yellow",
    "failed": "red",
}
LIVE_ROWS = 30
"""The largest number of heads in the live table. The ranking at the end has all of them."""


FIRST = "attaching the heads …"
DISPENSABLE = ("Family", "Linear %", "Loss", "Discrepancy", "k-NN %")
"""Columns of the live table that a narrow terminal does without, the first first."""


@contextmanager
def shown(search: Search, console: Console) -> Iterator[Callable[[Event], None]]:
    """The observer that shows a search: a live table if it can be redrawn, else a line a rung."""
    if not can_redraw(console):
        say(console, FIRST)
        yield _Lines(console, search)
        return
    with live_area(console, Text(FIRST)) as draw:
        table = _LiveTable(console, search, draw)
        search.on_scoring = table.scoring
        yield table


def points_of(event: Event, seeds: int) -> Points | None:
    """The points that an event adds to TensorBoard's curves, or None if it adds none.

    Args:
        seeds: the number of seeds that each cohort trains with.
    """
    if isinstance(event, Scored):
        live = len(event.leaderboard.live(event.cohort))
        scores = {BASE: event.scores.base, **event.scores.heads}
        values: dict[str, float] = {
            tag(chart, name): value
            for name, owner_scores in scores.items()
            for chart, value in owner_scores.charts().items()
        }
        # A rung counts the steps of one seed; the curves of losses count those of all seeds.
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
    """Prints one plain line for each rung."""

    def __init__(self, console: Console, search: Search) -> None:
        self._console = console
        self._rungs = search.config.rungs
        self._samples = search.prepared.training.domain.words.samples
        self._reported: set[str] = set()  # heads that an earlier line named as left
        self._estimated = False

    def __call__(self, event: Event) -> None:
        if isinstance(event, Scored):
            say(self._console, self._line(event))
        elif isinstance(event, Noted):
            print_notes(self._console, [event.text])
        elif isinstance(event, Advanced) and not self._estimated:
            left = event.throughput.seconds_left
            if left is not None:
                self._estimated = True
                say(self._console, f"about {duration(left)} left, judging by the first steps")

    def _line(self, event: Scored) -> str:
        entries = list(event.leaderboard.entries.values())
        cohort = [s for s in entries if s.cohort == event.cohort]
        live = sum(s.state == "running" for s in cohort)
        left = [s for s in cohort if _left_early(s) and s.candidate.name not in self._reported]
        self._reported.update(s.candidate.name for s in left)
        best = max(
            (s for s in cohort if s.scores and s.rungs == event.rung and s.state != "collapsed"),
            key=lambda s: (not s.candidate.control, s.score if s.score == s.score else -math.inf),
            default=None,
        )
        parts = [f"cohort {event.cohort + 1} rung {event.rung}/{self._rungs}", f"step {event.step}"]
        if event.scores.base.report is not None:
            parts.append(f"base k-NN {100 * event.scores.base.report.knn:.1f}%")
        if best is not None:
            parts.append(f"best {best.candidate.name} ({score_words(best)})")
        parts.append(f"{counted(live, 'head')} live" if event.rung < self._rungs else "complete")
        if left:
            names = (
                s.candidate.name + ("" if s.state == "pruned" else f" ({s.reason})") for s in left
            )
            parts.append(f"left: {', '.join(names)}")
        parts += speed_words(event.throughput, self._samples, last=event.rung == self._rungs)
        return " | ".join(parts)


class _LiveTable:
    """Draws a live table with one row for each head, below a progress bar."""

    def __init__(
        self, console: Console, search: Search, draw: Callable[[RenderableType], None]
    ) -> None:
        self._console, self._draw_area = console, draw
        self._steps = search.prepared.training.steps * search.config.seeds
        self._rungs = search.config.rungs
        self._samples = search.prepared.training.domain.words.samples
        self._stop = search.stop

    def __call__(self, event: Event) -> None:
        if isinstance(event, Noted):
            print_notes(self._console, [event.text])  # stays above the table when it is redrawn
            return
        rung = max(entry.rungs for entry in _in_order(event.leaderboard, event.cohort))
        words = self._words(event.cohort, f"rung {rung}/{self._rungs}", event.throughput.cohorts)
        words += step_words(event.step, self._steps, event.throughput, self._samples)
        bar = progress_bar(self._console, words, event.step, self._steps)
        self._draw_area(self._drawn(bar, event.leaderboard, event.cohort))

    def scoring(self, event: Scoring) -> None:
        """Shows how much of a rung is scored."""
        progress = event.progress
        words = [
            *self._words(event.cohort, f"scoring rung {event.rung}/{self._rungs}"),
            f"{progress.heads_done}/{counted(progress.heads, 'head')}",
        ]
        bar = progress_bar(self._console, words, progress.share, 1)
        self._draw_area(self._drawn(bar, event.leaderboard, event.cohort))

    def _words(self, cohort: int, rung: str, cohorts: int | None = None) -> list[str]:
        of_all = f"/{cohorts}" if cohorts is not None else ""
        stopping = ["stopping"] if self._stop.is_set() else []
        return [*stopping, f"cohort {cohort + 1}{of_all}", rung]

    def _drawn(self, bar: RenderableType, leaderboard: Leaderboard, cohort: int) -> RenderableType:
        entries = _in_order(leaderboard, cohort)
        # The progress bar, the column names and the last line take up to 6 lines of the terminal.
        row_count = max(5, min(LIVE_ROWS, self._console.size.height - 6))
        rows = Table(
            ["Head", "Family", "Loss", "Discrepancy", "k-NN %", "Linear %", "State"],
            [False, False, True, True, True, True, False],
            [list(_cells(entry)) for entry in entries[:row_count]],
            DISPENSABLE,
        )
        styles = [STATE_STYLES[entry.state] for entry in entries[:row_count]]
        parts: list[RenderableType] = [bar, fitted_table(rows, self._console.width, styles)[0]]
        if len(entries) > row_count:
            parts.append(Text(f"… and {len(entries) - row_count} more", style="dim"))
        return Group(*parts)


def _in_order(leaderboard: Leaderboard, cohort: int) -> list[Entry]:
    """A cohort's heads: those still in training before those that left, each by score."""

    def sort_key(entry: Entry) -> tuple[bool, int, float]:
        score = entry.score if entry.score == entry.score else -math.inf  # NaN sorts last
        return _left_early(entry), -entry.rungs, -score

    return sorted((s for s in leaderboard.entries.values() if s.cohort == cohort), key=sort_key)


def _left_early(entry: Entry) -> bool:
    """Whether a head's training ended before the last rung."""
    return entry.state in ("pruned", "collapsed", "failed")


def _cells(entry: Entry) -> Iterator[str]:
    """The cells of a head's row; a cell is empty while its value is unknown."""
    scores = entry.scores
    discrepancy = scores.discrepancy if scores else None
    reported = scores.report if scores else None
    yield entry.candidate.name
    yield entry.candidate.family
    yield f"{entry.loss:.3f}" if entry.loss == entry.loss else ""
    yield f"{discrepancy.value:.3f}" if discrepancy else ""
    yield f"{100 * reported.knn:.1f}" if reported else ""
    yield f"{100 * reported.linear:.1f}" if reported else ""
    yield entry.state + (f" at rung {entry.rungs}" if _left_early(entry) else "")


def score_words(entry: Entry) -> str:
    """A scored head's discrepancy and k-NN accuracy, in words."""
    scores = entry.scores
    assert scores is not None
    words = []
    if scores.discrepancy is not None:
        words.append(f"discrepancy {scores.discrepancy.value:.3f}")
    if scores.report is not None:
        words.append(f"k-NN {100 * scores.report.knn:.1f}%")
    return ", ".join(words)
