"""The console of all commands: no control characters, no errors of its own. Imports little."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from headsearch.runs.streams import best_effort
from headsearch.text import printable_lines


class HarmlessConsole(Console):
    """rich's console, which passes only rich's own control codes on, and drops what it cannot
    write.

    Names of files, classes and heads come from users and their data, and may hold escape codes.

    Args:
        file: the stream to write to; by default standard output as it is now.
        stderr: whether to write to standard error instead.
        options: those of rich's console.
    """

    def __init__(self, *, file: object = None, stderr: bool = False, **options: Any) -> None:
        if file is None:
            file = sys.stderr if stderr else sys.stdout
        super().__init__(file=best_effort(file), **options)

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
    """Prints a line of text, which is wrapped at words, but not in a pipe."""
    console.print(Text(text), soft_wrap=not (console.is_terminal or console.is_jupyter))


def print_notes(console: Console, notes: Iterable[str]) -> None:
    """Prints notes, one line each."""
    for note in notes:
        say(console, f"· {note}")


class Loading(Protocol):
    """Told what is being loaded: in words, and how much of it is done if that is known."""

    def __call__(self, what: str, done: int = 0, total: int = 0, /) -> None: ...


def silently(what: str, done: int = 0, total: int = 0, /) -> None:
    """A `Loading` that says nothing."""


@contextmanager
def loading_shown(console: Console | None) -> Iterator[Loading]:
    """A `Loading` that shows what is loaded in this block.

    Args:
        console: where to show it: in a line that changes in a terminal, else in a line for each
            part. None shows nothing.
    """
    if console is None:
        yield silently
    elif console.is_interactive:
        with console.status(Text("loading …")) as status:
            yield _changing(status.update)
    else:
        yield _lines(console)


def _changing(update: Callable[[RenderableType], None]) -> Loading:
    def show(what: str, done: int = 0, total: int = 0, /) -> None:
        update(Text(f"{what}: {done:,} of {total:,} …" if total else f"{what} …"))

    return show


def _lines(console: Console) -> Loading:
    said: set[str] = set()

    def show(what: str, done: int = 0, total: int = 0, /) -> None:
        if what not in said:
            said.add(what)
            print_notes(console, [f"{what} …"])

    return show
