"""Shows how far `explain` is: a bar that is drawn again, and a line for each base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.text import Text

from headsearch.config.domains import Words
from headsearch.pretraining.explaining.subjects import Subject
from headsearch.report.console import progress_bar
from headsearch.report.live import can_redraw, live_area
from headsearch.runs.console import say
from headsearch.text import counted


class Progress:
    """Parts of bases that are measured, counted and shown.

    Args:
        console: where to show them; None shows nothing.
        total: the number of parts of all bases.
        sample: what is counted within a part.
        redraw: draws the bar; None where it cannot be drawn again.
    """

    def __init__(
        self,
        console: Console | None,
        total: int,
        sample: str,
        redraw: Callable[[Any], None] | None,
    ) -> None:
        self._console, self._total, self._sample, self._redraw = console, total, sample, redraw
        self._done, self._images, self._words = 0, 0, ""

    def begin(self, subject: Subject, part: str) -> None:
        """A part of a base is measured now."""
        self._images, self._words = 0, f"{subject}: {part}"

    def images(self, count: int) -> None:
        """So many images of the part are done."""
        self._images += count
        if self._redraw is not None and self._console is not None:
            words = [self._words, counted(self._images, self._sample)]
            self._redraw(progress_bar(self._console, words, self._done, self._total))

    def ended(self, subject: Subject, parts: Sequence[str]) -> None:
        """All parts of a base are measured."""
        self._done += len(parts)
        if self._console is not None:
            say(self._console, f"{self._done}/{self._total} {subject}: {', '.join(parts)}")


@contextmanager
def progress_on(console: Console | None, total: int, words: Words) -> Iterator[Progress]:
    """The progress of this block."""
    if console is None or not total or not can_redraw(console):
        yield Progress(console, total, words.sample, None)
        return
    with live_area(console, Text("measuring …")) as redraw:
        yield Progress(console, total, words.sample, redraw)
