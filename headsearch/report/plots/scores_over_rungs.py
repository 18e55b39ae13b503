"""Discrepancy, accuracy and loss of each head during training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from headsearch.report.columns import COLUMNS
from headsearch.report.plots.axes import label_ends, make_room, padded, say
from headsearch.report.plots.legend import draw_legend, legend_height, state_handles
from headsearch.report.plots.scatter import finalists
from headsearch.report.plots.style import (
    INK,
    WIDTH,
    FamilyStyle,
    draw_marker,
    family_styles,
    marker_handle,
    shortened,
)
from headsearch.runs.run import Run
from headsearch.runs.tables import Ranked, ranked

PANELS: Sequence[tuple[str, str | None, str]] = (
    ("discrepancy", None, "Discrepancy"),
    ("head_knn", "base_knn", "k-NN accuracy (%)"),
    ("head_linear", "base_linear", "Linear probe (%)"),
    ("loss", None, "Loss (nats)"),
)
"""A column, the base's column that belongs to it, and a title that fits a low panel."""
PANEL_HEIGHT = 1.15  # inches
GAP = 0.1
RIGHT = 0.3  # inches, for the ranks beside the panels
ABREAST = 2  # entries of the legend, which are as long as names
OTHERS = FamilyStyle("#b0b0b0", "o")
"""Of the heads that are not among the best."""


def scores_over_rungs(run: Run) -> Figure:
    """A panel a figure over the images seen; the base's own accuracy is the dashed line.

    The best heads have the colours of their families, and their ranks at the ends of their curves;
    the others are grey. Panels whose column is empty (accuracies without labels) are left out.
    """
    rows = ranked(run.ranking)
    styles = family_styles(row.family for row in rows)
    best = finalists(rows)
    others = [row for row in rows if row not in best]
    panels, with_base = panels_of(run)
    handles = _legend(best, others, styles)
    if with_base:
        handles.append(Line2D([], [], color=INK, linewidth=1.1, linestyle="--", label="base"))
    bottom = 0.36 + legend_height(handles, ABREAST)
    height = bottom + len(panels) * (PANEL_HEIGHT + GAP)
    figure = Figure(figsize=(WIDTH, height))
    for index, (name, base, title) in enumerate(panels):
        y0 = bottom + (len(panels) - 1 - index) * (PANEL_HEIGHT + GAP)
        axes = figure.add_axes(
            (0.46 / WIDTH, y0 / height, (WIDTH - 0.46 - RIGHT) / WIDTH, PANEL_HEIGHT / height)
        )
        for row in reversed(others):
            _draw_head(axes, curve(run, row, name), OTHERS, row)
        for row in reversed(best):
            _draw_head(axes, curve(run, row, name), styles[row.family], row)
        if base in with_base:
            axes.plot(*base_curve(run, base).T, color=INK, linewidth=1.1, linestyle="--", zorder=3)
        seen = run.rungs["images"].to_numpy(dtype=float) * COLUMNS["images"].scale
        axes.set_xlim(*padded(seen.tolist()))
        axes.margins(y=0.08)
        axes.set_ylabel(title)
        axes.tick_params(labelbottom=index == len(panels) - 1)
        ends = [(str(row.rank), curve(run, row, name)) for row in best]
        label_ends(axes, [(text, (p[-1, 0], p[-1, 1])) for text, p in ends if len(p)])
    figure.axes[-1].set_xlabel(COLUMNS["images"].axis_title(run.words))
    figure.align_ylabels()
    make_room(figure)
    if run.rungs.empty:
        say(figure.axes[0], "no rung scored yet")
    draw_legend(figure, handles, ABREAST)
    return figure


def panels_of(run: Run) -> tuple[list[tuple[str, str | None, str]], list[str]]:
    """The panels whose column has figures, and the base's columns that have some."""
    panels = [panel for panel in PANELS if run.rungs[panel[0]].notna().any()] or [PANELS[0]]
    return panels, [base for _, base, _ in panels if base and run.rungs[base].notna().any()]


def curve(run: Run, row: Ranked, name: str) -> np.ndarray:
    """A head's figure over the images seen, (rungs, 2), in the units shown."""
    own = run.rungs[run.rungs["candidate"] == row.candidate].sort_values("rung")
    points_N2 = own[["images", name]].dropna().to_numpy(dtype=float)
    return points_N2 * (COLUMNS["images"].scale, COLUMNS[name].scale)


def base_curve(run: Run, name: str) -> np.ndarray:
    """The base's figure: the mean over cohorts, each of which trains its own copy."""
    means = run.rungs.groupby("images")[name].mean().dropna()
    points_N2 = np.column_stack([np.array(means.index, dtype=float), means.to_numpy(dtype=float)])
    return points_N2 * (COLUMNS["images"].scale, COLUMNS[name].scale)


def _legend(
    best: Sequence[Ranked], others: Sequence[Ranked], styles: dict[str, FamilyStyle]
) -> list[Line2D]:
    """An entry for each of the best heads, one for the others, and one for each state."""
    handles = []
    for row in best:
        handle = marker_handle(styles[row.family], row.state)
        handle.set_label(f"{row.rank} {shortened(row.candidate)}")
        handles.append(handle)
    if others:
        handles.append(Line2D([], [], color=OTHERS.colour, linewidth=0.8, label="other heads"))
    return handles + state_handles(row.state for row in (*best, *others))


def _draw_head(axes: Axes, points_N2: np.ndarray, style: FamilyStyle, row: Ranked) -> None:
    """Draws one head's curve with its marker at the end."""
    if not len(points_N2):
        return
    front = 0 if style is OTHERS else 1
    axes.plot(*points_N2.T, color=style.colour, linewidth=0.6 + 0.4 * front, zorder=1 + front)
    x, y = points_N2[-1]
    draw_marker(axes, float(x), float(y), style, row.state, size=3 + front)
