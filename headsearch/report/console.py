"""The console of all commands, through which no text can steer the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table as RichTable
from rich.text import Text

from headsearch.report import Table
from headsearch.runs.throughput import Throughput
from headsearch.text import duration, printable_lines


class HarmlessConsole(Console):
    """rich's console, whose own styles and movements are all that a terminal obeys."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Every text passes here, in tables and live displays too."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable_lines(segment.text), segment.style)


def say(console: Console, text: str) -> None:
    """A line: wrapped at words in a terminal, whole in a pipe."""
    console.print(Text(text), soft_wrap=not console.is_terminal)


def print_notes(console: Console, notes: Iterable[str]) -> None:
    """What was decided before a run starts, a line each."""
    for note in notes:
        say(console, f"· {note}")


def print_table(console: Console, table: Table) -> None:
    """One of the report's tables."""
    drawn = RichTable(box=None, pad_edge=False, header_style="bold")
    for heading, numeric in zip(table.headings, table.numeric, strict=True):
        drawn.add_column(heading, justify="right" if numeric else "left", no_wrap=True)
    for row in table.rows:
        drawn.add_row(*(Text(cell) for cell in row))
    console.print(drawn)


def progress_line(words: list[str], step: int, steps: int, pace: Throughput) -> RenderableType:
    """A bar, these words, and how fast it goes."""
    line = RichTable.grid(padding=(0, 1))
    left = pace.seconds_left
    words = [
        *words,
        f"step {step}/{steps}",
        f"{pace.images_per_second:.0f} images/s",
        f"{duration(left)} left" if left is not None else "",
    ]
    bar = ProgressBar(total=steps, completed=step, width=20)
    line.add_row(bar, Text(" · ".join(filter(None, words))))
    return line


def speed_words(pace: Throughput, *, last: bool) -> list[str]:
    """How fast it goes, for a line in a pipe: images a second, and the time left if any is."""
    words = []
    if pace.images_per_second:
        words.append(f"{pace.images_per_second:.0f} images/s")
    if not last and pace.seconds_left is not None:
        words.append(f"about {duration(pace.seconds_left)} left")
    return words
