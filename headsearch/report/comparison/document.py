"""Writes compare.html, compare.md and the plots of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from headsearch.errors import UserError
from headsearch.report.assets import script
from headsearch.report.columns import COLUMNS, Column, score_column
from headsearch.report.comparison.content import Content, left_out, tau_words
from headsearch.report.comparison.pairs import Pair
from headsearch.report.comparison.runs import Compared
from headsearch.report.plots.across_runs import Side, across_runs
from headsearch.report.plots.page_plot import written_plots
from headsearch.report.plots.style import FamilyStyle, family_styles
from headsearch.report.templates import page_environment
from headsearch.runs.directory import CONFIG, HOLDER, STUDY, write_atomically
from headsearch.runs.run import Run

FILES = ("compare.md", "compare.html")
MOST_PAIRS = 6
"""Pairs of runs that are plotted."""
PLOTTED = ("score", "discrepancy")
"""The figures that are plotted, by their name in `FIGURES`."""


def write_comparison(
    content: Content, runs: Sequence[Compared], pairs: Sequence[Pair], folder: Path
) -> Path:
    """Writes compare.md, compare.html and plots/ into a directory; returns compare.html.

    Args:
        content: the texts.
        runs: the runs.
        pairs: their pairs.
        folder: the directory, which is made if it does not exist. It must not lie in a run.

    Raises:
        UserError: the directory lies in a run, or cannot be written.
    """
    _refuse_runs(folder, runs)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        plots, failed = written_plots(_plots(runs, pairs), folder)
        environment = page_environment()
        for name in FILES:
            text = environment.get_template(f"{name}.j2").render(
                page=content, plots=plots, failed=failed, script=script("tables.js"),
                left_out=left_out(len(pairs), MOST_PAIRS),
            )  # fmt: skip
            write_atomically(folder / name, text)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot write the comparison: {error.strerror}; name another directory with "
            "--out"
        ) from None
    return folder / "compare.html"


def _refuse_runs(folder: Path, runs: Sequence[Compared]) -> None:
    """Raises UserError if the directory is one of a run, or lies in one."""
    own = {each.run.path.resolve() for each in runs}
    for place in (folder.resolve(), *folder.resolve().parents):
        if place in own or _is_run(place):
            raise UserError(
                f"{folder}: lies in the run directory {place}, and a comparison belongs to no run; "
                "name another directory with --out"
            )


def _is_run(path: Path) -> bool:
    """Whether a directory looks like a run; a config.yaml alone may be anybody's."""
    return (path / CONFIG).is_file() and any(
        (path / name).is_file() for name in (STUDY, HOLDER, "ranking.csv")
    )


def _plots(
    runs: Sequence[Compared], pairs: Sequence[Pair]
) -> Iterator[tuple[str, str, Callable[[], Figure | None]]]:
    """The plots of the page: name, caption, and what draws it."""
    styles = family_styles(row.family for each in runs for row in each.ranking)
    for figure in PLOTTED:
        for pair in pairs[:MOST_PAIRS]:
            yield (
                f"{figure}_{pair.first.letter}_{pair.second.letter}",
                f"{figure.capitalize()} of the heads that {pair.letters} have in common"
                f"{tau_words(pair.on[figure])}.",
                partial(_plot, pair, figure, styles),
            )


def _plot(pair: Pair, figure: str, styles: dict[str, FamilyStyle]) -> Figure | None:
    first, second = (_side(each, figure) for each in (pair.first, pair.second))
    return across_runs(pair.on[figure], first, second, styles)


def _side(each: Compared, figure: str) -> Side:
    column = _column(each.run, figure)
    return Side(each.letter, column, column.axis_title(each.run.words))


def _column(run: Run, figure: str) -> Column:
    return score_column(run) if figure == "score" else COLUMNS[figure]
