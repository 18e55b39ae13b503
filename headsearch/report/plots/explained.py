"""Pictures of `explain`: curves over depth, dots by condition, heatmaps, and rows of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from headsearch.config.domains import Words
from headsearch.report.findings import MEASURES, UNTRAINED, Measure
from headsearch.report.plots.axes import make_room
from headsearch.report.plots.legend import draw_legend, legend_height
from headsearch.report.plots.style import COLOURS, FAINT, INK, MARKERS, SOFT, WIDTH

PANEL = 1.5  # inches, height of a panel of curves
ROW = 0.17  # inches, height of a condition
TITLE = 0.22  # inches above a panel for its title
CONDITIONS = 20
"""The most conditions of a picture of dots; measurements.csv has all."""
CELL = 0.62  # inches, side of an image in a gallery


@dataclass(frozen=True)
class Style:
    """How a base is drawn in every picture of a comparison."""

    colour: str
    marker: str
    dash: Literal["-", "--", ":"] = "-"


def styles_of(models: Sequence[str], none: str, heads: Sequence[str]) -> dict[str, Style]:
    """A style for each base: black with no head, grey for controls, faint if it is untrained."""
    styles = {}
    for model in models:
        if model in heads:
            index = list(heads).index(model)
            style = Style(COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)])
        elif model == none:
            style = Style(INK, "s")
        else:
            faint = model == UNTRAINED
            style = Style(FAINT if faint else SOFT, "x" if faint else "<", ":" if faint else "--")
        styles[model] = style
    return styles


def handles_of(styles: Mapping[str, Style]) -> list[Line2D]:
    """The entries of a legend."""
    return [
        Line2D(
            [], [], color=style.colour, marker=style.marker, linestyle=style.dash, markersize=3.2,
            linewidth=1, label=model,
        )
        for model, style in styles.items()
    ]  # fmt: skip


def curves(table: pd.DataFrame, styles: Mapping[str, Style], words: Words) -> Figure:
    """A measure of every base over depth; a panel for each target, if there are targets.

    Lines are means over seeds, bands reach from the least to the greatest seed.
    """
    measure = MEASURES[str(table["analysis"].iloc[0])]
    parts = [(str(target), part) for target, part in table.groupby("target", sort=False)]
    shown = {model: style for model, style in styles.items() if model in set(table["model"])}
    figure, panels = _panels(len(parts), PANEL, handles_of(shown))
    for axes, (target, part) in zip(panels, parts, strict=True):
        for model, style in shown.items():
            _draw_curve(axes, part[part["model"] == model], style, measure.scale)
        axes.set_ylabel(words.say(measure.title))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelbottom=axes is panels[-1])  # the title of the next panel is there
        if target:
            axes.set_title(f"toward {target}", loc="left", pad=3)
    panels[-1].set_xlabel("block")
    make_room(figure)
    return figure


def _draw_curve(axes: Axes, rows: pd.DataFrame, style: Style, scale: float) -> None:
    by_block = rows.assign(block=rows["block"].astype(int)).groupby("block")["value"]
    mean, low, high = (getattr(by_block, name)() * scale for name in ("mean", "min", "max"))
    x = mean.index.to_numpy(dtype=float)
    axes.fill_between(x, low.to_numpy(), high.to_numpy(), color=style.colour, alpha=0.15, lw=0)
    axes.plot(
        x, mean.to_numpy(), color=style.colour, linestyle=style.dash, marker=style.marker,
        markersize=3, linewidth=1,
    )  # fmt: skip


def dots(table: pd.DataFrame, styles: Mapping[str, Style], words: Words) -> Figure:
    """A measure of every base by condition: the mean over seeds, with the range of seeds."""
    measure = MEASURES[str(table["analysis"].iloc[0])]
    shown = {model: style for model, style in styles.items() if model in set(table["model"])}
    conditions = _most_different(table)
    height = max(0.6, ROW * len(conditions) * (1 + 0.25 * len(shown)))
    figure, (axes,) = _panels(1, height, handles_of(shown))
    for place, condition in enumerate(conditions):
        rows = table[table["block"].astype(str) == condition]
        for index, (model, style) in enumerate(shown.items()):
            y = place + 0.7 * ((index + 0.5) / len(shown) - 0.5)
            _draw_dot(axes, rows.loc[rows["model"] == model, "value"], y, style, measure)
    axes.set_yticks(range(len(conditions)), conditions)
    axes.set_ylim(len(conditions) - 0.5, -0.5)
    axes.set_xlabel(words.say(measure.title))
    axes.grid(axis="x", color=FAINT, alpha=0.25, linewidth=0.5)
    make_room(figure)
    return figure


def _most_different(table: pd.DataFrame) -> list[str]:
    """The conditions in their order; of more than fit, those in which trained bases differ most."""
    conditions = [str(block) for block in dict.fromkeys(table["block"])]
    trained = table[table["model"] != UNTRAINED]
    means = trained.assign(block=trained["block"].astype(str)).groupby(["block", "model"])["value"]
    spread = means.mean().groupby("block").agg(lambda values: values.max() - values.min())
    kept = set(spread.sort_values(ascending=False).index[:CONDITIONS])
    return [condition for condition in conditions if condition in kept]


def _draw_dot(
    axes: Axes, values: pd.Series[float], y: float, style: Style, measure: Measure
) -> None:
    scaled = values.to_numpy(dtype=float) * measure.scale
    if not len(scaled) or not np.isfinite(scaled).all():
        return
    axes.plot([scaled.min(), scaled.max()], [y, y], color=style.colour, linewidth=0.8)
    axes.plot(
        [scaled.mean()], [y], color=style.colour, marker=style.marker, markersize=3.2, linestyle=""
    )


def heatmaps(matrices: Mapping[str, npt.NDArray[np.float64]]) -> Figure:
    """CKA of every block of a base (rows) with every block of that with no head (columns)."""
    count = len(matrices)
    width = max(WIDTH, 1.5 * count + 0.9)
    figure = Figure(figsize=(width, 1.95))
    grid = figure.subplots(1, count, squeeze=False)[0]
    figure.subplots_adjust(left=0.42 / width, right=1 - 0.65 / width, bottom=0.24, top=0.86)
    lowest = min(float(matrix.min()) for matrix in matrices.values())
    for index, (axes, (name, matrix)) in enumerate(zip(grid, matrices.items(), strict=True)):
        edges = (0.5, matrix.shape[1] + 0.5, 0.5, matrix.shape[0] + 0.5)
        picture = axes.imshow(
            matrix, cmap="viridis", vmin=min(0.0, lowest), vmax=1, extent=edges, origin="lower",
            aspect="equal",
        )  # fmt: skip
        axes.set_title(name, pad=3)
        axes.set_xlabel("block, no head")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        if not index:
            axes.set_ylabel("block")
    place = figure.add_axes((1 - 0.55 / width, 0.24, 0.1 / width, 0.62))
    figure.colorbar(picture, cax=place).set_label("CKA")
    return figure


@dataclass(frozen=True)
class ImageRow:
    """A row of pictures beside its name: (H, W, 3) or (H, W) each, in [0, 1].

    Attributes:
        name: left of the row.
        images: the pictures.
        titles: above each; none if empty.
        signed: whether pictures (H, W) hold values around 0, shown from blue to red.
    """

    name: str
    images: Sequence[npt.NDArray[np.float64]]
    titles: Sequence[str] = ()
    signed: bool = False


def image_rows(rows: Sequence[ImageRow]) -> Figure:
    """Rows of pictures of equal size; a map of one row is stretched to a picture's height."""
    columns = max(len(row.images) for row in rows)
    left = 0.08 + 0.055 * max(len(row.name) for row in rows)
    tall = [CELL + (0.16 if row.titles else 0.03) for row in rows]
    width, height = left + columns * (CELL + 0.03) + 0.05, sum(tall) + 0.05
    figure = Figure(figsize=(width, height))
    top = height - 0.03
    for row, needed in zip(rows, tall, strict=True):
        bottom = top - needed + 0.03
        figure.text(0.05 / width, (bottom + CELL / 2) / height, row.name, va="center", fontsize=6.5)
        for index, image in enumerate(row.images):
            x = left + index * (CELL + 0.03)
            axes = figure.add_axes((x / width, bottom / height, CELL / width, CELL / height))
            _draw_image(axes, image, signed=row.signed)
            if row.titles:
                axes.set_title(row.titles[index], fontsize=5.5, pad=1.5)
        top -= needed
    return figure


def _draw_image(axes: Axes, image: npt.NDArray[np.float64], *, signed: bool) -> None:
    limit = float(np.abs(image).max()) or 1.0
    limits = (-limit, limit) if signed else (0.0, 1.0)
    axes.imshow(
        image, cmap="RdBu_r", vmin=limits[0], vmax=limits[1], interpolation="nearest",
        aspect="auto" if image.shape[0] == 1 else "equal",
    )  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _panels(count: int, height: float, handles: list[Line2D]) -> tuple[Figure, list[Axes]]:
    """A figure one column wide with panels one below the other, above its legend."""
    bottom = 0.36 + legend_height(handles)
    total = bottom + count * height + (count - 1) * TITLE + TITLE
    figure = Figure(figsize=(WIDTH, total))
    panels = []
    for index in range(count):
        y = bottom + (count - 1 - index) * (height + TITLE)
        panels.append(
            figure.add_axes((0.46 / WIDTH, y / total, (WIDTH - 0.56) / WIDTH, height / total))
        )
    draw_legend(figure, handles)
    return figure, panels
