"""An area of the output that is drawn again and again, in a terminal or a notebook."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live

from headsearch.runs.console import HarmlessConsole

REDRAW_S = 0.25
"""The least number of seconds between two drawings."""
PAGE = '<pre style="white-space:pre;overflow-x:auto;line-height:normal">{code}</pre>'


def can_redraw(console: Console) -> bool:
    """Whether an area can be drawn again: neither in a pipe nor in a dumb terminal."""
    return console.is_interactive or console.is_jupyter


@contextmanager
def live_area(
    console: Console, first: RenderableType
) -> Iterator[Callable[[RenderableType], None]]:
    """An area that is gone after this block; yields the function that changes its content.

    Args:
        console: one that can redraw.
        first: the first content.
    """
    if console.is_jupyter:
        area = _NotebookArea(console.width)
        area.update(first)
        try:
            yield area.update
        finally:
            area.clear()
        return
    with Live(first, console=console, refresh_per_second=1 / REDRAW_S, transient=True) as live:
        yield live.update


class _NotebookArea:
    """A display of a notebook, drawn by rich; it needs no widgets.

    Args:
        width: in characters.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._drawn = -REDRAW_S
        self._handle: Any = None

    def update(self, content: RenderableType) -> None:
        """Shows the content, unless the last one was drawn just now."""
        if time.monotonic() - self._drawn >= REDRAW_S:
            self._drawn = time.monotonic()
            self._show(content)

    def clear(self) -> None:
        """Shows nothing any more."""
        self._show("")

    def _show(self, content: RenderableType) -> None:
        from IPython.display import HTML, display  # there is one wherever there is a notebook

        # It draws on a page of its own, because the notebook's console displays what it prints.
        page = HarmlessConsole(
            file=io.StringIO(), record=True, width=self._width, force_jupyter=False,
            highlight=False, markup=False,
        )  # fmt: skip
        page.print(content)
        html = HTML(page.export_html(inline_styles=True, code_format=PAGE))
        if self._handle is None:
            self._handle = display(html, display_id=True)
        else:
            self._handle.update(html)
