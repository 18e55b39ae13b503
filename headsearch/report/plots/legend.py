"""The legend below a plot: families by colour and marker, states by the fill of the marker."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from headsearch.report.plots.style import INK, FamilyStyle, marker_handle
from headsearch.runs.tables import CONTROL_FAMILIES, Ranked

COLUMNS_ABREAST = 3
ROW = 0.135  # inches


def legend_handles(rows: Sequence[Ranked], styles: dict[str, FamilyStyle]) -> list[Line2D]:
    """An entry for each family, then one for each state."""
    handles = []
    present = {row.family for row in rows}
    for family, style in styles.items():
        if family in present:
            handle = marker_handle(style, "complete")
            handle.set_label(f"{family} (control)" if family in CONTROL_FAMILIES else family)
            handles.append(handle)
    return handles + state_handles(row.state for row in rows)


def state_handles(states: Iterable[str]) -> list[Line2D]:
    """Entries for the states that are present: filled, hollow and crossed markers."""
    any_family = FamilyStyle(INK, "o")
    entries = {"complete": any_family, "running": any_family, "pruned": any_family}
    present = set(states)
    handles = []
    for state, style in entries.items():
        if state in present:
            handle = marker_handle(style, state)
            handle.set_label(state)
            handles.append(handle)
    crossed = [state for state in ("collapsed", "failed") if state in present]
    if crossed:
        handles.append(
            Line2D([], [], linestyle="none", color=INK, marker="x", label=", ".join(crossed))
        )
    return handles


def legend_height(handles: Sequence[Line2D], abreast: int = COLUMNS_ABREAST) -> float:
    """The height in inches of a legend with these entries."""
    return ROW * math.ceil(len(handles) / abreast) + 0.08 if handles else 0.0


def draw_legend(figure: Figure, handles: Sequence[Line2D], abreast: int = COLUMNS_ABREAST) -> None:
    """Draws the legend at the bottom of the figure; nothing without entries."""
    if handles:
        figure.legend(
            handles=list(handles),
            loc="lower center",
            ncols=abreast,
            frameon=False,
            borderaxespad=0.2,
            handletextpad=0.3,
            columnspacing=1.0,
            labelspacing=0.35,
        )
