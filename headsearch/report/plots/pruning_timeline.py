"""The pruning timeline: up to which rung each head was trained."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from headsearch.report.plots.axes import make_room, one_axes, say
from headsearch.report.plots.legend import state_handles
from headsearch.report.plots.style import draw_marker, family_styles, shortened
from headsearch.runs.run import Run
from headsearch.runs.tables import ranked

ROW = 0.145  # inches a head
SHOWN = 60  # heads, best first: more do not fit on a page


def pruning_timeline(run: Run) -> Figure:
    """A line a head in the order of the ranking, from the untrained network to its last rung."""
    rows = ranked(run.ranking)
    shown = rows[:SHOWN]
    styles = family_styles(row.family for row in rows)
    reached = run.rungs.groupby("candidate")["rung"].max().to_dict()
    planned = run.facts.get("rung_count") or run.config.get("rungs") or 1
    handles = state_handles(row.state for row in shown)
    figure, axes = one_axes(
        handles,
        height=ROW * max(len(shown), 4),
        right=0.12,
    )
    for y, row in enumerate(shown):
        style, end = styles[row.family], int(reached.get(row.candidate, 0))
        axes.plot(
            (0, end),
            (y, y),
            color=style.colour,
            linewidth=1.6,
            alpha=0.45,
            solid_capstyle="butt",
            zorder=2,
        )
        draw_marker(axes, end, y, style, row.state)
    if not shown:
        say(axes, "no rung scored yet")
    axes.set_ylim(max(len(shown), 4) - 0.4, -0.6)
    axes.set_yticks(range(len(shown)), [f"{row.rank}  {shortened(row.candidate)}" for row in shown])
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(-0.12, max(int(planned), *reached.values(), 0) + 0.12)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    more = f"; the first {SHOWN} of {len(rows)} heads" if len(rows) > SHOWN else ""
    axes.set_xlabel(f"Rung (0: untrained{more})")
    make_room(figure)
    return figure
