"""Titles, units and number formats of the columns of ranking.csv and rungs.csv."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from headsearch.config.domains import Words
from headsearch.report.statistics.intervals import Interval, accuracy_interval
from headsearch.report.statistics.ranking import rank_by, reporting_images
from headsearch.runs.other_data import OTHER_DATA_RANKINGS, OTHER_DATA_SCORES
from headsearch.runs.rank_by import weights_of
from headsearch.runs.run import Run
from headsearch.runs.tables import Ranked


@dataclass(frozen=True)
class Column:
    """How a numeric column is shown in a table and on an axis.

    Attributes:
        title: the title of an axis; `Words.say` fills it in.
        short: the heading in a table.
        unit: of the shown figure; empty for a count or a ratio.
        scale: factor from the stored to the shown figure (100 for a fraction in %).
        digits: decimals in a table.
        interval: the columns with the bounds of its interval, if it has one.
        decades: whether the values can span several decades, so that its axis may be logarithmic.
    """

    title: str
    short: str
    unit: str = ""
    scale: float = 1.0
    digits: int = 0
    interval: tuple[str, str] | None = None
    decades: bool = False

    def axis_title(self, words: Words) -> str:
        """The title with its unit, in the words of a domain."""
        title = words.say(self.title)
        return f"{title} ({self.unit})" if self.unit else title

    @property
    def heading(self) -> str:
        """The table heading with its unit."""
        return f"{self.short} ({self.unit})" if self.unit else self.short

    def text(self, value: float) -> str:
        """The figure as a table shows it, without its unit; a dash if it is missing.

        A small figure of a column that can span decades keeps two significant digits.
        """
        if math.isnan(value):
            return "–"
        figure = value * self.scale
        small = self.decades and 0 < abs(figure) < 10 ** (1 - self.digits)
        text = f"{figure:#.2g}" if small else f"{figure:.{self.digits}f}"
        return text.replace("-", "−", 1) if figure < 0 else text


COLUMNS: dict[str, Column] = {
    "rank": Column("Rank", "Rank"),
    "rungs": Column("Rungs reached", "Rungs"),
    "score": Column("Ranking score", "Score", digits=3),
    "discrepancy": Column(
        "Discrepancy from the base",
        "Discrepancy",
        digits=3,
        interval=("discrepancy_low", "discrepancy_high"),
        decades=True,
    ),
    "discrepancy_low": Column(
        "Discrepancy, lower bound", "Discrepancy low", digits=3, decades=True
    ),
    "discrepancy_high": Column(
        "Discrepancy, upper bound", "Discrepancy high", digits=3, decades=True
    ),
    "head_knn": Column("Head k-NN accuracy", "k-NN", "%", 100, 1),
    "head_linear": Column("Head linear-probe accuracy", "Linear", "%", 100, 1),
    "base_knn": Column("Base k-NN accuracy", "Base k-NN", "%", 100, 1),
    "base_linear": Column("Base linear-probe accuracy", "Base linear", "%", 100, 1),
    "head_top5": Column("Head linear-probe accuracy, top 5", "Top 5", "%", 100, 1),
    "base_top5": Column("Base linear-probe accuracy, top 5", "Base top 5", "%", 100, 1),
    "seg_knn": Column("Segmentation by k-NN, mIoU", "Seg. k-NN", "%", 100, 1),
    "seg_linear": Column("Segmentation by a linear probe, mIoU", "Seg. linear", "%", 100, 1),
    "region_knn": Column("Region k-NN accuracy", "Region k-NN", "%", 100, 1),
    "region_linear": Column("Region linear-probe accuracy", "Region linear", "%", 100, 1),
    "det_ap50": Column("Detection, AP at IoU 0.5", "Det. AP50", "%", 100, 1),
    "det_ar100": Column("Detection, AR of 100 boxes", "Det. AR100", "%", 100, 1),
    "mask_iou": Column("Instance masks, IoU", "Mask IoU", "%", 100, 1),
    "task_mean": Column("Mean over further tasks", "Tasks", "%", 100, 1),
    "effective_rank": Column("Effective rank", "Eff. rank", "", 1, 1, decades=True),
    "params_m": Column("Head parameters", "Params", "M", 1, 2, decades=True),
    "gflops": Column("Head compute per {sample}", "Compute", "GFLOPs", 1, 3, decades=True),
    "step_ms": Column("Head time per step", "Step", "ms", 1, 1, decades=True),
    "gain": Column(
        "Gain of a solo run", "Gain", "points", 100, 1, interval=("gain_low", "gain_high")
    ),
    "gain_low": Column("Gain, lower bound", "Gain low", "points", 100, 1),
    "gain_high": Column("Gain, upper bound", "Gain high", "points", 100, 1),
    "rung": Column("Rung", "Rung"),
    "step": Column("Training step", "Step"),
    "images": Column("{Samples} seen", "Images", "thousands", 0.001, 1),
    "loss": Column("Training loss", "Loss", "nats", 1, 3),
}
COLUMNS |= {
    f"base_{name}": replace(
        COLUMNS[name], title=f"Base: {COLUMNS[name].title}", short=f"Base {COLUMNS[name].short}"
    )
    for name in OTHER_DATA_SCORES
}
"""The columns by their name in the files."""


def score_column(run: Run) -> Column:
    """How the score that ranks the heads of a run is shown: an accuracy in per cent."""
    column = COLUMNS["score"]
    if not set(weights_of(rank_by(run))) <= {"accuracy", *OTHER_DATA_RANKINGS}:
        return column
    return replace(column, unit="%", scale=100, digits=1)


def shown(row: Ranked, name: str) -> float:
    """A figure of the ranking in the unit that it is shown in."""
    return float(getattr(row, name)) * COLUMNS[name].scale


def shown_interval(run: Run, row: Ranked, name: str) -> Interval:
    """A figure of the ranking with its 95 % interval, in the unit that it is shown in.

    The interval is the column's own, or the binomial one of an accuracy; its bounds are NaN for
    other columns.
    """
    column, images = COLUMNS[name], reporting_images(run)
    value, low, high = shown(row, name), math.nan, math.nan
    if column.interval is not None:
        low, high = (shown(row, bound) for bound in column.interval)
    elif name in ("head_knn", "head_linear") and images is not None:
        _, low, high = accuracy_interval(float(getattr(row, name)), images)
        low, high = low * column.scale, high * column.scale
    return Interval(value, low, high)


LOPSIDED = 0.15
"""Intervals whose sides differ by more than this share of their width are not given as ±."""


def with_error(accuracy: float, images: int | None) -> str:
    """An accuracy with its 95 % interval, which stays within 0 to 100 %.

    '38.1 ± 1.9%'; '100.0% (94.6 to 100.0)' where the interval is lopsided, near 0 and 100 %;
    '38.1%' if the number of images is unknown.
    """
    if images is None:
        return percent(accuracy)
    value, low, high = (100 * bound for bound in accuracy_interval(accuracy, images))
    if abs((high - value) - (value - low)) < LOPSIDED * (high - low):
        return f"{value:.1f} ± {(high - low) / 2:.1f}%"
    return f"{value:.1f}% ({low:.1f} to {high:.1f})"


def points(fraction: float) -> str:
    """A fraction as percentage points with a true minus sign: 0.0213 → '+2.1', −0.004 → '−0.4'.

    What rounds to zero has a plus sign.
    """
    return f"{round(100 * fraction, 1) + 0.0:+.1f}".replace("-", "−")


def signed(value: float) -> str:
    """A number with two decimals and a true minus sign: '−0.29'."""
    return f"{value:.2f}".replace("-", "−")


def percent(fraction: float) -> str:
    """A fraction in per cent: 0.3814 → '38.1%'."""
    return f"{100 * fraction:.1f}%"
