"""Tables and lines of progress on the console, laid out for its width."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table as RichTable
from rich.text import Text

from headsearch.report import Table
from headsearch.runs.console import print_notes
from headsearch.runs.throughput import Throughput
from headsearch.text import duration, listing, printable

GAP = 2
"""Characters between two columns."""


def print_table(console: Console, table: Table) -> None:
    """Prints one of the report's tables, with as many of its columns as there is room for."""
    fitted, left_out = fitted_table(table, console.width)
    console.print(fitted)
    if left_out:
        print_notes(console, [f"left out, because the terminal is too narrow: {listing(left_out)}"])


def fitted_table(
    table: Table, width: int, styles: Sequence[str] = ()
) -> tuple[RichTable, list[str]]:
    """A table with as many of its columns as there is room for, and the headings of the others.

    No cell is cut. If the remaining columns are still too wide, names are folded into lines.

    Args:
        table: the table.
        width: in characters.
        styles: of the rows; none by default.
    """
    shown = _fitting_columns(table, width)
    name = next((index for index in shown if not table.numeric[index]), shown[0])
    fitted = RichTable(box=None, pad_edge=False, header_style="bold")
    for index in shown:
        fitted.add_column(
            table.headings[index],
            justify="right" if table.numeric[index] else "left",
            no_wrap=index != name,
            overflow="fold",
            min_width=None if index == name else _width(table, index),
        )
    for row, style in zip_longest(table.rows, styles[: len(table.rows)]):
        fitted.add_row(*(Text(printable(row[index])) for index in shown), style=style)
    left_out = [h for index, h in enumerate(table.headings) if index not in shown]
    return fitted, list(dict.fromkeys(left_out))


def _fitting_columns(table: Table, width: int) -> list[int]:
    """The indices of the columns to show: dispensable ones are left out until the rest fits."""
    widths = [_width(table, index) for index in range(len(table.headings))]
    name = table.numeric.index(False) if False in table.numeric else 0
    least = sum(widths[i] + GAP for i, h in enumerate(table.headings) if h not in table.dispensable)
    if least - GAP > width:  # the names are folded in any case, and the figures need not go
        widths[name] = min(widths[name], width // 2)
    shown = list(range(len(table.headings)))
    for heading in table.dispensable:
        if sum(widths[index] + GAP for index in shown) - GAP <= width:
            break
        shown = [index for index in shown if table.headings[index] != heading]
    return shown


def _width(table: Table, column: int) -> int:
    """The width of a column, in characters."""
    cells = (table.headings[column], *(row[column] for row in table.rows))
    return max(cell_len(printable(cell)) for cell in cells)


def progress_bar(
    console: Console, words: Sequence[str], done: float, total: float
) -> RenderableType:
    """A progress bar beside words, which go on in a second line rather than being cut."""
    bar = 20 if console.width >= 100 else 10
    grid = RichTable.grid(padding=(0, 1))
    lines: list[str] = []
    for word in filter(None, words):
        if lines and cell_len(f"{lines[-1]} · {word}") <= console.width - bar - 2:
            lines[-1] += f" · {word}"
        else:
            lines.append(word)
    text = Text("\n".join(lines))
    grid.add_row(ProgressBar(total=max(total, 1e-9), completed=done, width=bar), text)
    return grid


def step_words(step: int, steps: int, pace: Throughput, samples: str) -> list[str]:
    """The step, the speed and the time left, for the words beside a progress bar."""
    left = pace.seconds_left
    return [
        f"step {step}/{steps}",
        f"{pace.images_per_second:.0f} {samples}/s",
        _waiting_word(pace),
        f"{duration(left)} left" if left is not None else "",
    ]


def speed_words(pace: Throughput, samples: str, *, last: bool) -> list[str]:
    """Samples per second and the time left, for a line in a pipe.

    Args:
        pace: the measured speed.
        samples: what the samples are called.
        last: whether the run is at its end, so that no time is left.
    """
    words = []
    if pace.images_per_second:
        words.append(f"{pace.images_per_second:.0f} {samples}/s")
    if _waiting_word(pace):
        words.append(_waiting_word(pace))
    if not last and pace.seconds_left is not None:
        words.append(f"about {duration(pace.seconds_left)} left")
    return words


SHOWN_FROM = 0.05
"""The share of waiting from which on it is shown."""


def _waiting_word(pace: Throughput) -> str:
    """How much of the time training waits for images; empty if hardly ever."""
    share = pace.waiting_share
    return f"waits for data {100 * share:.0f}%" if share >= SHOWN_FROM else ""
