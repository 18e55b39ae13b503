"""Figures with axes that fit their data: size, margins, scale, limits, ticks, reference lines."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from headsearch.report.plots.labels import renderer_of, spread
from headsearch.report.plots.legend import draw_legend, legend_height
from headsearch.report.plots.scale import DECADE, LINEAR_SHARE, Scale
from headsearch.report.plots.style import FAINT, SOFT, WIDTH

MARGIN = 0.05  # share of the axis that stays free at either end
CHARACTER = 0.06  # inches, width of a digit of a tick label with some space
EDGE = 0.04  # inches that stay free at the figure's edge
LINE = 0.11  # inches, height of a line of an axis title
NARROWEST = 1.5  # inches, minimum width of axes beside long names


def one_axes(
    handles: Sequence[Line2D], *, height: float = 2.45, right: float = 0.1, lines: int = 1
) -> tuple[Figure, Axes]:
    """A figure one column wide, with axes above its legend.

    Args:
        handles: of the legend.
        height: of the axes, inches.
        right: inches to the right of the axes; `make_room` sets those to the left.
        lines: in the title of the horizontal axis.
    """
    left = 0.46
    bottom = 0.36 + LINE * (lines - 1) + legend_height(handles)
    total = bottom + height + 0.2
    figure = Figure(figsize=(WIDTH, total))
    axes = figure.add_axes(
        (left / WIDTH, bottom / total, (WIDTH - left - right) / WIDTH, height / total)
    )
    draw_legend(figure, handles)
    return figure, axes


def make_room(figure: Figure) -> None:
    """Moves the left end of the axes to where tick labels and titles of y just fit.

    Names too long for one column make the figure wider. Limits must be final.
    """
    renderer = renderer_of(figure)
    width, height = figure.get_size_inches()
    left = 0.0
    for axes in figure.axes:
        labels_box = axes.yaxis.get_tightbbox(renderer)
        if labels_box is not None:
            left = max(left, axes.get_position().x0 * width - labels_box.x0 / figure.dpi)
    left += EDGE
    for axes in figure.axes:
        place = axes.get_position()
        right = (1 - place.x1) * width
        wide = max(width, left + right + NARROWEST)
        figure.set_size_inches(wide, height)
        axes.set_position((left / wide, place.y0, (wide - left - right) / wide, place.height))


def say(axes: Axes, text: str) -> None:
    """Writes a note in the middle of axes that have nothing to show."""
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)


def titled(title: str, scale: Scale) -> str:
    """The title of an axis, with a second line that says what is special about its scale."""
    return f"{title}\n{scale.words}" if scale.words else title


def fit_x(axes: Axes, values: Sequence[float], scale: Scale) -> None:
    """Sets limits and scale of a horizontal axis that holds `values`."""
    finite = [value for value in values if math.isfinite(value)]
    if scale.kind == "linear":
        axes.set_xlim(*padded(finite))
        return
    low, high = min(finite), max(finite)
    if scale.kind == "log":
        axes.set_xscale("log")
    else:
        axes.set_xscale("symlog", linthresh=scale.threshold, linscale=LINEAR_SHARE)
    ends = padded(scale.forward([low, high]).tolist())
    axes.set_xlim(*scale.backward(ends))
    axes.xaxis.set_major_locator(FixedLocator(_ticks(axes, low, high, scale.threshold)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _ticks(axes: Axes, low: float, high: float, threshold: float) -> list[float]:
    """The tick positions within low..high whose labels fit.

    0 and the powers of ten, with 2 and 5 or else with 3 of each decade if there is room.
    """
    decades = range(round(math.log10(threshold)), math.ceil(math.log10(high)) + 1)
    kept = [0.0] if low <= 0 else []
    for decade in decades:
        if low <= DECADE**decade <= high and _labels_fit(axes, [*kept, DECADE**decade]):
            kept.append(DECADE**decade)
    for steps in ((2, 5), (3,)):
        between = [step * DECADE**decade for decade in decades for step in steps]
        more = sorted([*kept, *(mark for mark in between if low <= mark <= high)])
        if _labels_fit(axes, more):
            return more
    return kept


def _labels_fit(axes: Axes, marks: Sequence[float]) -> bool:
    """Whether the labels of these ascending ticks do not touch."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    places = [axes.get_xaxis_transform().transform((m, 0))[0] / figure.dpi for m in marks]
    halves = [len(f"{mark:g}") * CHARACTER / 2 for mark in marks]
    return all(
        places[k + 1] - places[k] >= halves[k] + halves[k + 1] + CHARACTER
        for k in range(len(marks) - 1)
    )


def padded(values: Sequence[float]) -> tuple[float, float]:
    """The range of the finite values with a margin: 0..1 without any, ±½ around a single 0."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    margin = (high - low) * MARGIN or abs(high) * MARGIN or 0.5
    return low - margin, high + margin


def reference_lines(
    axes: Axes, lines: Sequence[tuple[str, float]], fontsize: float = 6
) -> list[tuple[str, float]]:
    """Draws labelled horizontal lines.

    Labels stand to the right of the axes and are spread if lines are close. Limits must be final.

    Returns:
        The lines that were drawn; those at NaN are left out.
    """
    drawn = [(text, value) for text, value in lines if math.isfinite(value)]
    for _, value in drawn:
        axes.axhline(value, color=FAINT, linewidth=0.6, linestyle=(0, (4, 2)), zorder=1)
    edge = axes.get_xlim()[1]
    label_ends(axes, [(text, (edge, value)) for text, value in drawn], fontsize)
    return drawn


def label_ends(
    axes: Axes, ends: Sequence[tuple[str, tuple[float, float]]], fontsize: float = 6
) -> None:
    """Writes labels of points to the right of the axes, at their heights, with leader lines.

    Labels are spread where points are close. Limits must be final.
    """
    low, high = axes.get_ylim()
    figure = axes.figure
    assert isinstance(figure, Figure)
    inches = axes.get_position().height * figure.get_size_inches()[1]
    gap = fontsize * 1.25 / 72 / inches * (high - low)
    places = spread([y for _, (_, y) in ends], gap, low, high)
    for (text, point), place in zip(ends, places, strict=True):
        axes.annotate(
            text,
            point,
            xytext=(1.035, place),
            textcoords=("axes fraction", "data"),
            fontsize=fontsize,
            color=SOFT,
            va="center",
            ha="left",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": FAINT, "shrinkA": 0.5,
                        "shrinkB": 0},
        )  # fmt: skip
