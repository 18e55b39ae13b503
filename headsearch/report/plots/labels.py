"""Placement of labels in a plot: clear of markers, of lines and of one another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from headsearch.report.plots.style import INK

DISTANCES = (5, 9, 14, 20, 27, 35, 44, 54)  # points from the marker's centre, nearest first
ANGLES = (0, 180, 45, 135, -45, -135, 90, -90, 22, 158, -22, -158, 67, 113, -67, -113)
PAD = 1.5  # pixels of free space around a label
LEADER = 8  # points from marker to label beyond which a line joins them
# Costs of a place, where 4 points of distance cost 1: for each 2 pixels of line that the label
# covers, and for each marker or label that its leader crosses.
COVERING = 0.8
CROSSING = 100
HALO = [patheffects.withStroke(linewidth=1.5, foreground="white")]


Point = tuple[float, float]
"""x and y."""


class Label(NamedTuple):
    """A text that belongs to a point of the axes, in data coordinates.

    The colour is that of its leader line; texts are black, because yellow ones are hard to read.
    """

    text: str
    x: float
    y: float
    colour: str
    bold: bool = False


def place(
    axes: Axes,
    labels: Sequence[Label],
    points: Sequence[Point],
    segments: Sequence[Sequence[Point]] = (),
    fontsize: float = 6,
) -> list[Annotation]:
    """Writes each label where it covers no point, no other label and as few segments as possible.

    A label takes the free place nearest to its point; a thin leader line joins them if that is far.
    A label without a free place is left out; of several labels on one point, only the first is
    written. The report's table names every head.

    Args:
        axes: whose limits and position are final.
        labels: the most important first.
        points: markers and bars to keep clear of, in data coordinates.
        segments: polylines in data coordinates that labels should avoid.
        fontsize: points.

    Returns:
        The labels that were written.
    """
    figure = axes.figure
    assert isinstance(figure, Figure)
    renderer = renderer_of(figure)
    per_point = figure.dpi / 72
    frame = axes.get_window_extent(renderer)
    obstacles = [_around(axes, point, 3 * per_point) for point in points]
    strokes_P2 = _sampled(axes, segments)
    written: list[Annotation] = []
    for label in _one_a_point(axes, labels):
        note = axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=fontsize,
            color=INK,
            fontweight="bold" if label.bold else "normal",
            ha="center",
            va="center",
            zorder=7,
            path_effects=HALO,
        )
        size = note.get_window_extent(renderer)
        width, height = size.width + 2 * PAD, size.height + 2 * PAD
        x, y = axes.transData.transform((label.x, label.y))
        best: tuple[float, float, float, Bbox] | None = None
        for distance in DISTANCES:
            for angle in ANGLES:
                # The label's near edge, not its centre, lies at `distance` from the point.
                dx = math.cos(math.radians(angle)) * (distance * per_point + width / 2)
                dy = math.sin(math.radians(angle)) * (distance * per_point + height / 2)
                box = Bbox.from_bounds(x + dx - width / 2, y + dy - height / 2, width, height)
                if not _inside(frame, box) or any(box.overlaps(other) for other in obstacles):
                    continue
                cost = COVERING * _covered(box, strokes_P2) + distance / 4
                tip = _nearest(box, (x, y))
                if math.dist(tip, (x, y)) > LEADER * per_point:
                    path_P2 = np.linspace((x, y), tip, 40)[8:]  # beyond the label's own marker
                    cost += CROSSING * sum(_covered(other, path_P2) > 0 for other in obstacles)
                if best is None or cost < best[0]:
                    best = (cost, dx, dy, box)
        if best is None:
            note.remove()
            continue
        _, dx, dy, box = best
        note.set_position((dx / per_point, dy / per_point))
        obstacles.append(box)
        written.append(note)
        _leader(axes, (x, y), box, label.colour)
    return written


def renderer_of(figure: Figure) -> RendererBase:
    """A renderer that measures the figure's texts, in pixels at the figure's own dpi."""
    return cast(RendererBase, FigureCanvasAgg(figure).get_renderer())  # type: ignore[no-untyped-call]


def _one_a_point(axes: Axes, labels: Sequence[Label]) -> list[Label]:
    """The labels without those on a point that already has one."""
    kept: list[Label] = []
    for label in labels:
        here = axes.transData.transform((label.x, label.y))
        there = [axes.transData.transform((other.x, other.y)) for other in kept]
        if all(math.dist(here, place) > 1 for place in there):
            kept.append(label)
    return kept


def _leader(axes: Axes, point: Point, box: Bbox, colour: str) -> None:
    """Draws a thin line from the point to its label's nearest edge, unless they are close."""
    tip = _nearest(box, point)
    if math.dist(tip, point) <= LEADER * axes.figure.dpi / 72:
        return
    ends_22 = axes.transData.inverted().transform([point, tip])
    axes.plot(ends_22[:, 0], ends_22[:, 1], color=colour, linewidth=0.4, zorder=4)


def _nearest(box: Bbox, point: Point) -> Point:
    """The point of the box nearest to a point."""
    return min(max(point[0], box.x0), box.x1), min(max(point[1], box.y0), box.y1)


def _around(axes: Axes, point: Point, reach: float) -> Bbox:
    """The box of this half-width around a point, in pixels."""
    x, y = axes.transData.transform(point)
    return Bbox.from_extents(x - reach, y - reach, x + reach, y + reach)


def _sampled(axes: Axes, segments: Sequence[Sequence[Point]]) -> np.ndarray:
    """Points in pixels along the polylines, close enough that no label fits between two."""
    samples = [np.empty((0, 2))]
    for line in segments:
        pixels = axes.transData.transform(np.asarray(line, dtype=float))
        for start, end in pairwise(pixels):
            steps = max(2, int(np.hypot(*(end - start)) / 2))
            samples.append(start + (end - start) * np.linspace(0, 1, steps)[:, None])
    return np.concatenate(samples)


def _covered(box: Bbox, pixels_P2: np.ndarray) -> float:
    """The number of points that a box covers."""
    x, y = pixels_P2.T
    return float(((x > box.x0) & (x < box.x1) & (y > box.y0) & (y < box.y1)).sum())


def _inside(frame: Bbox, box: Bbox) -> bool:
    """Whether the box lies within the frame."""
    return bool(
        box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0 and box.y1 <= frame.y1
    )


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The positions moved as little as necessary to be `gap` apart within low..high.

    Neighbours that would touch are merged into a block around their mean (pool adjacent violators).
    Needs (len − 1) · gap ≤ high − low.
    """
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    blocks: list[tuple[list[int], float]] = []  # members in order, the first one's position
    for i in order:
        members, start = [i], positions[i]
        start = min(max(start, low), high)
        while blocks and blocks[-1][1] + gap * len(blocks[-1][0]) > start:
            members = blocks.pop()[0] + members
            mean = sum(positions[m] - gap * k for k, m in enumerate(members)) / len(members)
            start = min(max(mean, low), high - gap * (len(members) - 1))
        blocks.append((members, start))
    placed = [0.0] * len(positions)
    for members, start in blocks:
        for k, member in enumerate(members):
            placed[member] = start + gap * k
    return placed
