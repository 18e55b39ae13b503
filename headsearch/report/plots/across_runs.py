"""A figure of the heads in one run against the same figure in another."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure

from headsearch.report.columns import Column
from headsearch.report.plots.axes import make_room, one_axes, padded
from headsearch.report.plots.labels import Label, place
from headsearch.report.plots.legend import family_handles
from headsearch.report.plots.style import FamilyStyle, draw_marker, shortened
from headsearch.report.statistics.across_runs import Agreement

NAMED = 4
"""Heads of each run that are named in the plot."""


@dataclass(frozen=True)
class Side:
    """One of the two runs.

    Attributes:
        letter: what its axis calls it.
        column: how its figure is shown.
        title: what the figure is, with its unit.
    """

    letter: str
    column: Column
    title: str


def across_runs(
    found: Agreement, first: Side, second: Side, styles: dict[str, FamilyStyle]
) -> Figure | None:
    """The heads that two runs have in common as points; None if they have none.

    Args:
        found: their agreement on the figure.
        first: the run on the horizontal axis.
        second: the run on the vertical axis.
        styles: of the families, the same in all plots of a page.
    """
    table = found.heads
    if found.rungs is None or table.empty:
        return None
    shown = {family: style for family, style in styles.items() if family in {*table["family"]}}
    figure, axes = one_axes(family_handles(shown))
    x_N = (table["first"] * first.column.scale).tolist()
    y_N = (table["second"] * second.column.scale).tolist()
    axes.set_xlim(*padded(x_N))
    axes.set_ylim(*padded(y_N))
    axes.set_xlabel(_title(first, found.rungs[0]))
    axes.set_ylabel(_title(second, found.rungs[1]))
    make_room(figure)
    points = list(zip(x_N, y_N, strict=True))
    for (x, y), family in zip(points, table["family"], strict=True):
        draw_marker(axes, x, y, styles[family], "complete")
    best = {
        *table["first"].nlargest(NAMED).index,
        *table["second"].nlargest(NAMED).index,
    }
    labels = [
        Label(shortened(str(name)), x, y, styles[family].colour)
        for name, family, (x, y) in zip(table.index, table["family"], points, strict=True)
        if name in best
    ]
    place(axes, labels, points)
    return figure


def _title(side: Side, rung: int) -> str:
    return f"{side.title} in {side.letter}, rung {rung}"
