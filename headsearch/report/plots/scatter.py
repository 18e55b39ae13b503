"""Heads as points with error bars, each at the end of its curve; the best ones are named."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from headsearch.report.columns import points
from headsearch.report.plots.labels import Label, Point, place
from headsearch.report.plots.style import INK, FamilyStyle, draw_marker, shortened
from headsearch.report.statistics.intervals import Interval
from headsearch.report.statistics.ranking import best_head, contenders
from headsearch.runs.tables import Ranked

NAMED = 5  # heads named in a plot; the report's table names all
MANY = 12  # heads beyond which the curves of the others are grey


class Dot(NamedTuple):
    """A head in a plot, in the units shown. Bounds that it does not have are NaN.

    Attributes:
        row: of the ranking.
        style: of its family.
        path: its points at its rungs; the last one is the marker's.
        x: horizontal position of the marker, with its error bar.
        y: vertical position of the marker, with its error bar.
    """

    row: Ranked
    style: FamilyStyle
    path: list[Point]
    x: Interval
    y: Interval


def finalists(rows: Sequence[Ranked]) -> list[Ranked]:
    """The heads that stand out in a plot: the best of those comparable to the first."""
    return contenders(rows)[:NAMED]


def extent(dots: Sequence[Dot]) -> tuple[list[float], list[float]]:
    """All x and all y that the axes must show; NaN among them must be ignored."""
    xs = [x for dot in dots for x in (*dot.x, *(point[0] for point in dot.path))]
    ys = [y for dot in dots for y in (*dot.y, *(point[1] for point in dot.path))]
    return xs, ys


def draw(axes: Axes, dots: Sequence[Dot]) -> None:
    """Draws curves, error bars and markers; the first head lies on top, the best is larger.

    Where heads are many, only the curves of the best have a colour.
    """
    rows = [dot.row for dot in dots]
    best, named = best_head(rows), finalists(rows)
    for row, style, path, x, y in reversed(dots):  # the best head is drawn last
        x_N, y_N = np.array(path).T
        colour = style.colour
        faint = len(dots) > MANY and row not in named
        way = "#c8c8c8" if faint else colour
        axes.plot(x_N, y_N, color=way, linewidth=0.6, alpha=0.45, zorder=2)
        axes.plot(x_N[:-1], y_N[:-1], ".", color=way, markersize=2, alpha=0.5, mew=0, zorder=2)
        alpha = 0.8 if row.state in ("complete", "running") else 0.35
        bar: dict[str, Any] = {
            "color": colour,
            "linewidth": 0.7,
            "alpha": alpha,
            "solid_capstyle": "butt",
        }
        axes.plot((x.low, x.high), (y.value, y.value), zorder=3, **bar)
        axes.plot((x.value, x.value), (y.low, y.high), zorder=3, **bar)
        if row is best:
            axes.plot(x.value, y.value, "o", color="none", mec=INK, ms=9.5, mew=0.7, zorder=4)
        draw_marker(axes, x.value, y.value, style, row.state, size=6 if row is best else 4.5)


def name_finalists(
    axes: Axes,
    dots: Sequence[Dot],
    segments: Sequence[Sequence[Point]] = (),
    *,
    gains: bool = True,
) -> None:
    """Writes the names of the best heads where they cover nothing.

    Verified heads are named too, with their gain if `gains` is true.

    Args:
        axes: whose limits are final.
        dots: the heads, best first.
        segments: further polylines that names should avoid.
        gains: whether to write the gain of a verified head behind its name.
    """
    rows = [dot.row for dot in dots]
    best, named = best_head(rows), {row.candidate for row in finalists(rows)}
    named |= {dot.row.candidate for dot in dots if math.isfinite(dot.row.gain)}
    across = [[(x.low, y.value), (x.high, y.value)] for *_, x, y in dots if math.isfinite(x.low)]
    along = [[(x.value, y.low), (x.value, y.high)] for *_, x, y in dots if math.isfinite(y.low)]
    place(
        axes,
        [
            Label(
                _name(dot.row, gains), dot.x.value, dot.y.value, dot.style.colour, dot.row is best
            )
            for dot in dots
            if dot.row.candidate in named
        ],
        points=[(dot.x.value, dot.y.value) for dot in dots],
        segments=[*(dot.path for dot in dots), *across, *along, *segments],
    )


def _name(row: Ranked, gains: bool) -> str:
    """The candidate, with its gain if solo runs have measured it."""
    if not gains or math.isnan(row.gain):
        return shortened(row.candidate)
    return f"{shortened(row.candidate)} ({points(row.gain)} points)"
