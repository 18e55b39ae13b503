"""Discrepancy, accuracy and loss of each head during training."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from headsearch.report.columns import COLUMNS
from headsearch.report.plots.axes import make_room, padded, say
from headsearch.report.plots.legend import draw_legend, legend_handles, legend_height
from headsearch.report.plots.style import INK, WIDTH, FamilyStyle, draw_marker, family_styles
from headsearch.runs.run import Run
from headsearch.runs.tables import Ranked, ranked

PANELS = (
    ("discrepancy", None, "Discrepancy"),
    ("head_knn", "base_knn", "k-NN accuracy (%)"),
    ("head_linear", "base_linear", "Linear probe (%)"),
    ("loss", None, "Loss (nats)"),
)
"""A column, the base's column that belongs to it, and a title that fits a low panel."""
PANEL_HEIGHT = 1.15  # inches
GAP = 0.1


def scores_over_rungs(run: Run) -> Figure:
    """A panel a figure over the images seen; the base's own accuracy is drawn in black.

    Panels whose column is empty (accuracies without labels) are left out.
    """
    rows = ranked(run.ranking)
    styles = family_styles(row.family for row in rows)
    panels = [panel for panel in PANELS if run.rungs[panel[0]].notna().any()] or [PANELS[0]]
    with_base = [base for _, base, _ in panels if base and run.rungs[base].notna().any()]
    handles = legend_handles(rows, styles)
    if with_base:
        handles.append(Line2D([], [], color=INK, linewidth=1.1, label="base"))
    bottom = 0.36 + legend_height(handles)
    height = bottom + len(panels) * (PANEL_HEIGHT + GAP)
    figure = Figure(figsize=(WIDTH, height))
    for index, (name, base, title) in enumerate(panels):
        y0 = bottom + (len(panels) - 1 - index) * (PANEL_HEIGHT + GAP)
        axes = figure.add_axes(
            (0.46 / WIDTH, y0 / height, (WIDTH - 0.56) / WIDTH, PANEL_HEIGHT / height)
        )
        for row in reversed(rows):
            _draw_head(axes, run, row, name, styles[row.family])
        if base in with_base:
            _draw_base(axes, run, base)
        seen = run.rungs["images"].to_numpy(dtype=float) * COLUMNS["images"].scale
        axes.set_xlim(*padded(seen.tolist()))
        axes.margins(y=0.08)
        axes.set_ylabel(title)
        axes.tick_params(labelbottom=index == len(panels) - 1)
    figure.axes[-1].set_xlabel(COLUMNS["images"].axis_title)
    figure.align_ylabels()
    make_room(figure)
    if run.rungs.empty:
        say(figure.axes[0], "no rung scored yet")
    draw_legend(figure, handles)
    return figure


def _draw_head(axes: Axes, run: Run, row: Ranked, name: str, style: FamilyStyle) -> None:
    """Draws one head's curve with its marker at the end."""
    own = run.rungs[run.rungs["candidate"] == row.candidate].sort_values("rung")
    points_N2 = own[["images", name]].dropna().to_numpy(dtype=float)
    if not len(points_N2):
        return
    x_N, y_N = points_N2[:, 0] * COLUMNS["images"].scale, points_N2[:, 1] * COLUMNS[name].scale
    axes.plot(x_N, y_N, color=style.colour, linewidth=0.8, alpha=0.7, zorder=2)
    draw_marker(axes, float(x_N[-1]), float(y_N[-1]), style, row.state, size=4)


def _draw_base(axes: Axes, run: Run, name: str) -> None:
    """Draws the base's accuracy: the mean over cohorts, each of which trains its own copy."""
    means = run.rungs.groupby("images")[name].mean().dropna()
    x_N = np.array(means.index, dtype=float) * COLUMNS["images"].scale
    y_N = means.to_numpy(dtype=float) * COLUMNS[name].scale
    axes.plot(x_N, y_N, color=INK, linewidth=1.1, zorder=3)
