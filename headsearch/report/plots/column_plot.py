"""A plot of any column of a run's tables against any other."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from headsearch.errors import UserError, unknown
from headsearch.report.columns import COLUMNS, shown, shown_interval
from headsearch.report.plots import scatter
from headsearch.report.plots.axes import fit_x, make_room, one_axes, padded, titled
from headsearch.report.plots.labels import Point
from headsearch.report.plots.legend import legend_handles
from headsearch.report.plots.scale import scale_of
from headsearch.report.plots.style import check_suffix, family_styles, plotting, save
from headsearch.report.statistics.intervals import Interval
from headsearch.runs.run import Run
from headsearch.runs.tables import Ranked, ranked


def plot_columns(run: Run, x: str, y: str, out: Path) -> Path:
    """Plots column `y` over column `x` into `out` (.png, .svg or .pdf) and returns `out`.

    Two columns of ranking.csv give a point a head, with error bars if a figure has an interval. If
    one of them is in rungs.csv only, each head is a curve through its rungs.

    Raises:
        UserError: a column is unknown or empty in this run, or `out` cannot be written.
    """
    check_suffix(out)
    known = [n for n in COLUMNS if n in run.ranking.columns or n in run.rungs.columns]
    for name in (x, y):
        if name not in known:
            raise unknown("column", name, known)
    with plotting():
        figure = column_figure(run, x, y)
        if figure is None:
            raise UserError(
                f"{run.path}: no head has both {x!r} and {y!r} in this run yet; choose others"
            )
        return save(figure, out)


def column_figure(run: Run, x: str, y: str) -> Figure | None:
    """Column `y` over column `x`; None if no head has both."""
    rows = ranked(run.ranking)
    styles = family_styles(row.family for row in rows)
    dots = column_dots(run, x, y)
    if not dots:
        return None
    xs, ys = scatter.extent(dots)
    scale = scale_of(xs, decades=COLUMNS[x].decades)
    handles = legend_handles([dot.row for dot in dots], styles)
    figure, axes = one_axes(handles, lines=2 if scale.words else 1)
    fit_x(axes, xs, scale)
    axes.set_ylim(*padded(ys))
    axes.set_xlabel(titled(COLUMNS[x].axis_title(run.words), scale))
    axes.set_ylabel(COLUMNS[y].axis_title(run.words))
    make_room(figure)
    scatter.draw(axes, dots)
    scatter.name_finalists(axes, dots, gains="gain" not in (x, y))
    return figure


def column_dots(run: Run, x: str, y: str) -> list[scatter.Dot]:
    """The heads that have both columns, best first, in the units shown."""
    rows = ranked(run.ranking)
    styles = family_styles(row.family for row in rows)
    per_head = x in run.ranking.columns and y in run.ranking.columns
    dots = []
    for row in rows:
        if per_head:
            place = (shown_interval(run, row, x), shown_interval(run, row, y))
            path = [(place[0].value, place[1].value)]
        else:
            path = _path(run, row, x, y)
        if not path or not all(math.isfinite(figure) for figure in path[-1]):
            continue
        if not per_head:
            place = (_exact(path[-1][0]), _exact(path[-1][1]))
        dots.append(scatter.Dot(row, styles[row.family], path, *place))
    return dots


def _path(run: Run, row: Ranked, x: str, y: str) -> list[Point]:
    """The head's points at its rungs in the units shown, without missing ones."""
    own = run.rungs[run.rungs["candidate"] == row.candidate].sort_values("rung")
    points = zip(_over_rungs(row, own, x), _over_rungs(row, own, y), strict=True)
    return [point for point in points if all(math.isfinite(figure) for figure in point)]


def _over_rungs(row: Ranked, own: pd.DataFrame, name: str) -> list[float]:
    """A head's figure at each of its rungs; a figure of ranking.csv is the same at all of them."""
    if name not in own.columns:
        return [shown(row, name)] * len(own)
    return [float(value) * COLUMNS[name].scale for value in own[name]]


def _exact(value: float) -> Interval:
    """A value without an interval."""
    return Interval(value, math.nan, math.nan)
