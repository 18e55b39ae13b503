"""Plots of a page: as files beside it, and embedded in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from headsearch.report.plots.style import plotting, save
from headsearch.text import printable

FOLDER = "plots"
"""The folder of the plots, beside the page."""


@dataclass(frozen=True)
class PagePlot:
    """A plot of a page.

    Attributes:
        name: its name, which is also that of its files.
        caption: its caption.
        svg: the SVG for embedding in the HTML.
    """

    name: str
    caption: str
    svg: Markup


def written_plots(
    plots: Iterable[tuple[str, str, Callable[[], Figure | None]]], folder: Path
) -> tuple[list[PagePlot], list[str]]:
    """Draws plots and writes each as plots/NAME.svg and .png into a folder.

    Args:
        plots: name, caption, and the function that draws it or returns None if there is nothing to
            show.
        folder: that of the page.

    Returns:
        The plots, without those that show nothing, and for each that failed its name and why.
    """
    written, failed = [], []
    for name, caption, build in plots:
        try:
            svg = _written(name, build, folder / FOLDER)
        except Exception as error:  # whatever it is, it must not cost the page
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            failed.append(f"{name}: {printable(reason)}")
        else:
            if svg is not None:
                written.append(PagePlot(name, caption, svg))
    return written, failed


def _written(name: str, build: Callable[[], Figure | None], folder: Path) -> Markup | None:
    """Draws a plot and writes its files; returns the SVG for embedding."""
    with plotting():
        figure = build()
        if figure is None:
            return None
        save(figure, folder / f"{name}.png")
        path = save(figure, folder / f"{name}.svg")
    return Markup(_inline(path.read_text(encoding="utf-8"), name))


def _inline(svg: str, name: str) -> str:
    """The SVG for embedding: without prolog, with ids unique to the plot, without a size.

    Ids must be unique because several SVGs stand in one HTML page; the page sets the size.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", svg)
    tag, rest = svg.split(">", 1)
    tag = re.sub(r' (?:width|height)="[^"]*"', "", tag)
    return f'{tag} role="img" aria-label="{name.replace("_", " ")}">{rest}'
