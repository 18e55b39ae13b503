"""Console output of all commands; control characters in texts never reach the terminal."""

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
    """rich's console, which passes only rich's own control codes on to the terminal.

    Names of files, classes and heads come from users and their data, and may hold escape codes.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Makes every text printable; those in tables and live displays pass here too."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable_lines(segment.text), segment.style)


def say(console: Console, text: str) -> None:
    """Prints a line of text, which is wrapped at words in a terminal but not in a pipe."""
    console.print(Text(text), soft_wrap=not console.is_terminal)


def print_notes(console: Console, notes: Iterable[str]) -> None:
    """Prints notes, one line each."""
    for note in notes:
        say(console, f"· {note}")


def print_table(console: Console, table: Table) -> None:
    """Prints one of the report's tables."""
    rich_table = RichTable(box=None, pad_edge=False, header_style="bold")
    for heading, numeric in zip(table.headings, table.numeric, strict=True):
        rich_table.add_column(heading, justify="right" if numeric else "left", no_wrap=True)
    for row in table.rows:
        rich_table.add_row(*(Text(cell) for cell in row))
    console.print(rich_table)


def progress_line(words: list[str], step: int, steps: int, pace: Throughput) -> RenderableType:
    """A progress bar with these words, the step, the speed and the time left."""
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
    """Images per second and the time left, for a line in a pipe.

    Args:
        pace: the measured speed.
        last: whether the run is at its end, so that no time is left.
    """
    words = []
    if pace.images_per_second:
        words.append(f"{pace.images_per_second:.0f} images/s")
    if not last and pace.seconds_left is not None:
        words.append(f"about {duration(pace.seconds_left)} left")
    return words
