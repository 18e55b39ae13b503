"""Draws the carry-over benchmark from its tables, once `analyse.py` has written them.

    python benchmarks/carry_over/figures.py --out results/carry_over

- `gains_SCORE.svg`: the gain of each head against a score, a panel for each setting. Bars go from
  the smaller to the larger value of the two seeds.
- `tau.svg`: the mean τ of each score over the settings, with its interval.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from agreement import PRIMARY
from analyse import LEAST
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from run import LAST_RUNG
from tables import Array, Truth, read_tables, scores_at, truth_of

from headsearch.report.plots.style import FAINT, SOFT, family_styles, plotting, save

TITLES = {PRIMARY: "Head accuracy (%)", "discrepancy": "Discrepancy from the base"}
"""The scores that gains are drawn against, with the titles of their axes."""
COLUMNS = 4
POINTS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    solo, searches = read_tables(out)
    truths = {name: truth_of(rows) for name, rows in solo.groupby("setting", sort=False)}
    scores = scores_at(searches, truths, "observe", LAST_RUNG["observe"])
    with plotting():
        for name, title in TITLES.items():
            save(gains(truths, scores[name], title), out / f"gains_{name}.svg")
        save(forest(pd.read_csv(out / "summary.csv")), out / "tau.svg")


def gains(truths: Mapping[str, Truth], scores: Mapping[str, Array], title: str) -> Figure:
    """Gain against a score, a panel for each setting.

    Args:
        truths: the gains by setting.
        scores: (H, Z) by setting.
        title: of the score's axis.
    """
    rows = -(-len(truths) // COLUMNS)
    figure = Figure(figsize=(7, 1.9 * rows), layout="constrained")
    grid = np.atleast_1d(figure.subplots(rows, COLUMNS, squeeze=False)).flatten()
    families = sorted({head.partition("-")[0] for truth in truths.values() for head in truth.heads})
    styles = family_styles(families)
    percent = POINTS if title.endswith("(%)") else 1
    for axes, (setting, truth) in zip(grid, truths.items(), strict=False):
        axes.axhline(0, color=FAINT, linewidth=0.5)
        for head, gain_S, score_Z in zip(
            truth.heads, POINTS * truth.gain_HS, percent * scores[setting], strict=True
        ):
            family = head.partition("-")[0]
            style, x, y = styles[family], score_Z.mean(), gain_S.mean()
            axes.plot([x, x], [gain_S.min(), gain_S.max()], color=style.colour, linewidth=0.7)
            axes.plot([score_Z.min(), score_Z.max()], [y, y], color=style.colour, linewidth=0.7)
            axes.plot(
                [x], [y], linestyle="none", marker=style.marker, markersize=4, color=style.colour,
                label=family,
            )  # fmt: skip
        axes.set_title(setting)
    for axes in grid[len(truths) :]:
        axes.set_axis_off()
    handles, labels = grid[0].get_legend_handles_labels()
    if len(grid) > len(truths):
        grid[-1].legend(handles, labels, loc="center", ncols=2, frameon=False, fontsize=6)
    else:
        figure.legend(handles, labels, loc="outside lower center", ncols=7, frameon=False)
    figure.supxlabel(title, fontsize=7)
    figure.supylabel("Gain over no head (points)", fontsize=7)
    return figure


def forest(summary: pd.DataFrame) -> Figure:
    """The mean τ of each score with its interval, the largest on top."""
    table = summary.sort_values("tau").reset_index(drop=True)
    figure = Figure(figsize=(5, 0.17 * len(table) + 0.7), layout="constrained")
    axes: Axes = figure.subplots()
    axes.axvline(0, color=FAINT, linewidth=0.5)
    axes.axvline(LEAST, color=SOFT, linewidth=0.5, linestyle="--")
    for y, row in table.iterrows():
        primary = (row["score"], row["coupling"]) == (PRIMARY, "observe")
        colour = "#D55E00" if primary else "#0072B2"
        axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=1)
        axes.plot([row["tau"]], [y], marker="o", markersize=3.5, color=colour)
    names = [
        row["score"] if row["coupling"] in ("observe", "none") else f"{row['score']} (joint)"
        for row in table.to_dict("records")
    ]
    axes.set_yticks(range(len(table)), names)
    axes.set_ylim(-0.7, len(table) - 0.3)
    axes.set_xlabel("Mean Kendall's τ with the gains over the settings (95% interval)")
    return figure


if __name__ == "__main__":
    main()
