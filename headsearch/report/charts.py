"""The data of the interactive page: its heads, and what its charts draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from headsearch.errors import UserError
from headsearch.report.columns import COLUMNS
from headsearch.report.plots import scatter
from headsearch.report.plots.column_plot import column_dots
from headsearch.report.plots.discrepancy_accuracy import (
    X,
    accuracy_column,
    accuracy_dots,
    baselines,
    discrepancy_title,
    trend_line,
    trend_words,
)
from headsearch.report.plots.scale import Scale, scale_of
from headsearch.report.plots.scores_over_rungs import base_curve, curve, panels_of
from headsearch.report.plots.style import family_styles
from headsearch.report.statistics.rank_correlation import trend
from headsearch.report.statistics.ranking import best_head
from headsearch.runs.run import Run
from headsearch.runs.tables import ranked

DRAWN = 100
"""The most heads in a chart, best first: more are too many for a browser, and for an eye."""

SYMBOLS = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "p": "pentagon",
    "<": "triangle-left",
    ">": "triangle-right",
}
"""What plotly calls the markers of the static plots."""

Chart = dict[str, Any]
"""What report.js draws: plain data in the units shown, with an entry a head where it is a list."""


def page_data(run: Run, charts: Sequence[str]) -> dict[str, Any]:
    """The data of report.js.

    Args:
        run: the run.
        charts: the static plots that were drawn, by name.
    """
    rungs = run.rungs.groupby("rung")["images"].max()
    return {
        "heads": list(_heads(run)),
        "rungs": [
            {"rung": int(rung), "images": float(images) * COLUMNS["images"].scale}
            for rung, images in zip(rungs.index.tolist(), rungs.tolist(), strict=True)
        ],
        "charts": {name: chart for name in charts if (chart := _chart(run, name)) is not None},
    }


def _heads(run: Run) -> list[dict[str, Any]]:
    """The heads in the order of the ranking table."""
    rows = ranked(run.ranking)
    styles, best = family_styles(row.family for row in rows), best_head(rows)
    named = scatter.finalists(rows)
    return [
        {
            "name": row.candidate,
            "family": row.family,
            "state": row.state,
            "rank": row.rank,
            "winner": row is best and math.isfinite(row.score),
            "finalist": row in named,
            "control": row.control,
            "colour": styles[row.family].colour,
            "symbol": SYMBOLS[styles[row.family].marker],
            "yaml": head_yaml(row.candidate, row.rank),
        }
        for row in rows
    ]


def head_yaml(name: str, rank: int) -> str:
    """A head as a search space of its own, as `headsearch export` writes it.

    A family of the user's own is not read, because that would run its code.
    """
    # Imports timm, which nothing else here needs.
    from headsearch.models.space import named_head, space_text

    try:
        return space_text(named_head(name), f"The head {name} as a search space of its own.")
    except UserError:
        return f"# headsearch export RUN --rank {rank}\n# writes this head as YAML."


def _chart(run: Run, name: str) -> Chart | None:
    """The interactive form of a static plot; None if it has none."""
    if name == "discrepancy_accuracy":
        return _main(run)
    if name == "scores_over_rungs":
        return _curves(run)
    if name == "pruning_timeline":
        return _timeline(run)
    if name == "discrepancy_gain":
        return _scatter(run, column_dots(run, X, "gain"), discrepancy_title(run), "gain", X)
    return None


def _main(run: Run) -> Chart:
    """Accuracy over discrepancy, with the trend and the baselines."""
    y = accuracy_column(run)
    chart = _scatter(run, accuracy_dots(run), discrepancy_title(run), y, X)
    chart["baselines"] = [{"text": text, "value": value} for text, value in baselines(run, y)]
    found = trend(run, X, y) if y in run.rungs.columns else None
    if found is not None:
        scale = Scale(chart["x"]["scale"], chart["x"]["threshold"])
        line = trend_line(found, scale, COLUMNS[y].scale)
        chart["trend"] = {"rung": found.rung, "text": trend_words(found), "points": line}
    return chart


def _scatter(run: Run, dots: Sequence[scatter.Dot], title: str, y: str, x: str) -> Chart:
    """Heads as points with error bars, each at the end of its path over the rungs."""
    xs, _ = scatter.extent(dots)
    scale = scale_of(xs, decades=COLUMNS[x].decades)
    place = {row.candidate: k for k, row in enumerate(ranked(run.ranking)[:DRAWN])}
    rungs = {name: sorted(own["rung"].tolist()) for name, own in run.rungs.groupby("candidate")}
    return {
        "kind": "scatter",
        "x": {
            "title": title,
            "scale": scale.kind,
            "threshold": scale.threshold,
            "words": scale.words,
        },
        "y": {"title": COLUMNS[y].axis_title(run.words)},
        "points": [
            {
                "head": place[dot.row.candidate],
                "x": list(dot.x),
                "y": list(dot.y),
                "path": dot.path,
                "rungs": rungs.get(dot.row.candidate, [])[-len(dot.path) :],
            }
            for dot in dots
            if dot.row.candidate in place
        ],
    }


def _curves(run: Run) -> Chart:
    """A panel a figure over the images seen."""
    rows = ranked(run.ranking)[:DRAWN]
    panels, with_base = panels_of(run)
    return {
        "kind": "curves",
        "x": {"title": COLUMNS["images"].axis_title(run.words)},
        "panels": [
            {
                "title": title,
                "curves": [curve(run, row, name).tolist() for row in rows],
                "base": base_curve(run, base).tolist() if base and base in with_base else [],
            }
            for name, base, title in panels
        ],
    }


def _timeline(run: Run) -> Chart:
    """The last rung of each head."""
    reached = run.rungs.groupby("candidate")["rung"].max().to_dict()
    rows = ranked(run.ranking)[:DRAWN]
    ends = [int(reached.get(row.candidate, 0)) for row in rows]
    planned = run.facts.get("rung_count") or run.config.get("rungs") or 1
    return {"kind": "timeline", "ends": ends, "planned": max(int(planned), *ends, 0)}
