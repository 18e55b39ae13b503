"""Colours, markers and fonts of all plots; saving gives the same bytes for the same data."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from headsearch.errors import UserError
from headsearch.runs.tables import CONTROL_FAMILIES

SCREEN_DPI = 150  # of a figure in a notebook, whose texts are as small as those of a page
WIDTH = 3.5  # inches: one column of a two-column page
INK = "#1a1a1a"
SOFT = "#555555"  # texts beside the data
FAINT = "#8a8a8a"  # lines behind the data

# Any, because the type of its keys differs between versions of matplotlib.
RC: Any = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same on every machine
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "text.parse_math": False,  # else a name with $ in it is read as a formula
    "svg.fonttype": "path",  # a label keeps its measured width where the font is not installed
    "svg.hashsalt": "headsearch",  # fixed, else the ids in the file are random
    "pdf.fonttype": 42,
}

# Okabe & Ito's colours that stand out on white, and markers that differ without colour. There are
# 6 colours and 7 markers, numbers without a common divisor, so the first 42 families all differ.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "p")
CONTROL_COLOUR = SOFT
CONTROL_MARKERS = {"identity": "<", "own": ">"}

SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class FamilyStyle:
    """The colour and marker of a family in every plot of a run."""

    colour: str
    marker: str


def family_styles(families: Iterable[str]) -> dict[str, FamilyStyle]:
    """A style for each family, by name; controls are grey."""
    present = set(families)
    discovered = sorted(present - set(CONTROL_FAMILIES))
    styles = {
        family: FamilyStyle(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)])
        for i, family in enumerate(discovered)
    }
    controls = {
        family: FamilyStyle(CONTROL_COLOUR, CONTROL_MARKERS[family])
        for family in CONTROL_FAMILIES
        if family in present
    }
    return styles | controls


LONGEST = 26
"""Characters of a name in a plot; the report's table has the whole name."""


def shortened(name: str) -> str:
    """A name that fits a plot."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def draw_marker(
    axes: Axes, x: float, y: float, style: FamilyStyle, state: str, size: float = 4.5
) -> None:
    """Draws a head's marker: filled while it trains, hollow once pruned, crossed if it failed."""
    axes.add_line(marker_handle(style, state, size, x=x, y=y))
    if state in ("collapsed", "failed"):
        axes.add_line(
            Line2D(
                [x], [y], color=INK, marker="x", markersize=size + 1, markeredgewidth=0.9, zorder=6
            )
        )


def marker_handle(
    style: FamilyStyle, state: str, size: float = 4.5, *, x: float = 0.0, y: float = 0.0
) -> Line2D:
    """The marker as a line with one point, for the axes or a legend."""
    filled = state in ("complete", "running")
    return Line2D(
        [x],
        [y],
        linestyle="none",
        marker=style.marker,
        markersize=size,
        markerfacecolor=style.colour if filled else "white",
        markeredgecolor="white" if filled else style.colour,
        markeredgewidth=0.4 if filled else 0.9,
        zorder=5,
    )


@contextmanager
def plotting() -> Iterator[None]:
    """Context in which figures are built and saved; matplotlib's settings are restored after it.

    They look the same whatever the user's matplotlibrc says (LaTeX for all texts, for example).
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)
        yield


def save(figure: Figure, path: Path) -> Path:
    """Writes the figure, without dates in its metadata; returns the path.

    Raises:
        UserError: an unknown format, or the file cannot be written.
    """
    suffix = check_suffix(path)
    no_date = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": None}[suffix]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format=suffix[1:], metadata=no_date)
    except OSError as error:
        raise UserError(
            f"{path}: cannot write the plot: {error.strerror}; name another place with --out"
        ) from None
    return path


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG, of twice the pixels of a screen at its size."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=2 * SCREEN_DPI)
    return buffer.getvalue()


def check_suffix(path: Path) -> str:
    """The path's suffix in lower case.

    Raises:
        UserError: plots are not written in this format.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(
            f"{path}: plots are written as {', '.join(SUFFIXES)}, but got {suffix or 'no suffix'!r}"
        )
    return suffix
