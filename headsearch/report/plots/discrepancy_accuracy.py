"""The main plot of a report: accuracy of each head against its discrepancy from the base."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from headsearch.report.columns import COLUMNS, shown, shown_interval, signed
from headsearch.report.plots import scatter
from headsearch.report.plots.axes import (
    EDGE,
    fit_x,
    make_room,
    one_axes,
    padded,
    reference_lines,
    say,
    titled,
)
from headsearch.report.plots.labels import Point
from headsearch.report.plots.legend import legend_handles
from headsearch.report.plots.scale import Scale, scale_of
from headsearch.report.plots.style import INK, SOFT, family_styles
from headsearch.report.statistics.rank_correlation import Trend, trend
from headsearch.runs.run import Run
from headsearch.runs.tables import Ranked, ranked

X = "discrepancy"
DOTTED = (0, (1, 1.5))


def discrepancy_accuracy(run: Run) -> Figure:
    """A curve a head through its rungs, ending at its marker with error bars.

    Horizontal bars are the interval of the discrepancy, vertical ones the binomial interval of an
    accuracy on the reporting images, both 95 %. Without labels, y is the effective rank, which is
    in ranking.csv only and has no curve.
    """
    rows = ranked(run.ranking)
    y = accuracy_column(run)
    styles = family_styles(row.family for row in rows)
    dots = accuracy_dots(run)
    correlated = trend(run, X, y) if y in run.rungs.columns else None
    references = baselines(run, y)
    xs, ys = scatter.extent(dots)
    scale = scale_of(xs, decades=COLUMNS[X].decades)

    handles = legend_handles([dot.row for dot in dots], styles)
    if correlated is not None:
        text = f"trend at rung {correlated.rung}"
        handles.append(Line2D([], [], color=INK, linewidth=0.8, linestyle=DOTTED, label=text))
    figure, axes = one_axes(
        handles, right=0.58 if references else 0.1, lines=2 if scale.words else 1
    )
    if not dots:
        say(axes, "no rung scored yet" if run.rungs.empty else "no head has both figures")
    fit_x(axes, xs, scale)
    axes.set_ylim(*padded(ys + [value for _, value in references]))
    axes.set_xlabel(titled(discrepancy_title(run), scale))
    axes.set_ylabel(COLUMNS[y].axis_title(run.words))
    make_room(figure)
    reference_lines(axes, references)
    scatter.draw(axes, dots)
    lines = [[(x, value) for x in axes.get_xlim()] for _, value in references]
    if correlated is not None:
        lines.append(_draw_trend(axes, trend_line(correlated, scale, COLUMNS[y].scale), correlated))
    scatter.name_finalists(axes, dots, lines)
    return figure


def accuracy_column(run: Run) -> str:
    """The accuracy that is plotted: k-NN, else linear probe, else the effective rank."""
    for name in ("head_knn", "head_linear", "effective_rank"):
        if run.ranking[name].notna().any():
            return name
    return "head_knn"


def accuracy_dots(run: Run) -> list[scatter.Dot]:
    """The heads that have both figures, best first, in the units shown."""
    rows, y = ranked(run.ranking), accuracy_column(run)
    styles = family_styles(row.family for row in rows)
    return [
        scatter.Dot(
            row,
            styles[row.family],
            _path(run, row, y),
            shown_interval(run, row, X),
            shown_interval(run, row, y),
        )
        for row in rows
        if math.isfinite(shown(row, X)) and math.isfinite(shown(row, y))
    ]


def discrepancy_title(run: Run) -> str:
    """The title of the horizontal axis, with the measure of discrepancy."""
    measure = str(run.config.get("discrepancy", "cka"))
    return f"{COLUMNS[X].title} ({'1 − CKA' if measure == 'cka' else measure})"


def _path(run: Run, row: Ranked, y: str) -> list[Point]:
    """The head's figures at its rungs, ending with those of the ranking."""
    end = (shown(row, X), shown(row, y))
    if y not in run.rungs.columns:
        return [end]
    own = run.rungs[run.rungs["candidate"] == row.candidate].sort_values("rung")
    points = own[[X, y]].dropna().to_numpy(dtype=float) * (1, COLUMNS[y].scale)
    return [*((float(px), float(py)) for px, py in points[:-1]), end]


def baselines(run: Run, y: str) -> list[tuple[str, float]]:
    """The accuracies of base, untrained base and raw pixels, with their labels."""
    probe = y.removeprefix("head_")
    measured = run.facts.get("baselines", {})
    raw = run.words.raw
    texts = (("base", "base"), ("untrained", "untrained"), ("raw", raw))
    return [
        (text, float(measured[f"{kind}_{probe}"]) * COLUMNS[y].scale)
        for kind, text in texts
        if measured.get(f"{kind}_{probe}") is not None
    ]


def trend_line(correlated: Trend, scale: Scale, unit: float) -> list[Point]:
    """The Theil–Sen line, in the units shown.

    The Theil–Sen slope is the estimator that belongs to Kendall's τ. The line is straight on the
    scale of the x axis, which may be logarithmic.
    """
    shown_N = scale.forward(correlated.x)
    slope, intercept, *_ = stats.theilslopes(correlated.y * unit, shown_N)
    line_P = np.linspace(shown_N.min(), shown_N.max(), 60)
    heights_P = intercept + slope * line_P
    return list(zip(scale.backward(line_P).tolist(), heights_P.tolist(), strict=True))


def trend_words(correlated: Trend) -> str:
    """Kendall's τ of the trend, with its interval."""
    tau, number = correlated.correlation.kendall, correlated.correlation.number
    return (
        f"Rung {correlated.rung}, {number} heads: Kendall's τ = {signed(tau.value)} "
        f"[{signed(tau.low)}, {signed(tau.high)}], p = {correlated.correlation.p:.2g}"
    )


def _draw_trend(axes: Axes, line: list[Point], correlated: Trend) -> list[Point]:
    """Draws the trend and writes Kendall's τ above the axes; returns the line."""
    axes.plot(*np.array(line).T, color=INK, linewidth=0.8, linestyle=DOTTED, zorder=2)
    figure = axes.figure
    assert isinstance(figure, Figure)
    width, height = figure.get_size_inches()
    figure.text(
        EDGE / width, 1 - EDGE / height, trend_words(correlated), fontsize=6.5, color=SOFT, va="top"
    )
    return line
