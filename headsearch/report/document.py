"""Writes report.md, report.html and the plots of a run."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from headsearch.errors import UserError
from headsearch.report.assets import PLOTLY, json_data, script
from headsearch.report.charts import page_data
from headsearch.report.content import content
from headsearch.report.explained import explain_pictures
from headsearch.report.plots.column_plot import column_figure
from headsearch.report.plots.discrepancy_accuracy import accuracy_column, discrepancy_accuracy
from headsearch.report.plots.pruning_timeline import pruning_timeline
from headsearch.report.plots.scores_over_rungs import scores_over_rungs
from headsearch.report.plots.style import plotting, save
from headsearch.report.templates import page_environment
from headsearch.runs.run import Run
from headsearch.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILES = ("report.md", "report.html")
"""The files of a report, besides its plots."""


SCRIPTS = (PLOTLY, "charts.js", "report.js")
"""The scripts of report.html, in this order."""


def _gain(run: Run) -> Figure | None:
    """Gain against discrepancy; None if no head was verified."""
    return column_figure(run, "discrepancy", "gain") if "gain" in run.ranking.columns else None


def _dense(run: Run, *names: str) -> Figure | None:
    """The first of some dense scores that the run has, against accuracy; None without any."""
    name = next((n for n in names if n in run.ranking and run.ranking[n].notna().any()), None)
    return column_figure(run, accuracy_column(run), name) if name is not None else None


PLOTS: dict[str, tuple[Callable[[Run], Figure | None], str]] = {
    "discrepancy_accuracy": (
        discrepancy_accuracy,
        "Each head's accuracy against its discrepancy from the base: a curve through its rungs, "
        "ending at its marker. Bars are 95% intervals of the discrepancy (over images) and of the "
        "accuracy (on the reporting images). The trend is that at the last rung before pruning.",
    ),
    "scores_over_rungs": (
        scores_over_rungs,
        "Discrepancy, accuracy and loss during training. The best heads are labelled; the dashed "
        "line is the base itself.",
    ),
    "pruning_timeline": (
        pruning_timeline,
        "How long each head was trained: its last rung, in the order of the ranking.",
    ),
    "accuracy_segmentation": (
        lambda run: _dense(run, "seg_linear"),
        "Segmentation of dense images by each head's map, against its accuracy on whole images.",
    ),
    "accuracy_detection": (
        lambda run: _dense(run, "det_ap50"),
        "Detection in dense images by each head's map, against its accuracy on whole images.",
    ),
    "discrepancy_gain": (
        _gain,
        "The gain of each verified head in solo runs, against the discrepancy that the search "
        "measured. Bars are 95% intervals; those of the gain hold for all heads at once.",
    ),
}
"""The plots of a report: name to the function that builds it and its caption."""


def write_report(run: Run, out: Path | None = None) -> Path:
    """Writes report.md, report.html and plots/ into a directory; returns report.html.

    Works for an unfinished run too. The same run gives the same bytes. A plot that fails is left
    out, and the report says why.

    Args:
        run: the run.
        out: the directory, which is made if it does not exist; by default the run directory.

    Raises:
        UserError: the directory cannot be written.
    """
    folder = run.path if out is None else out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_written(folder, error) from None
    written = [
        _write_plot(run, name, build, caption, folder) for name, (build, caption) in PLOTS.items()
    ]
    plots = [plot for plot in written if plot.svg is not None]
    failed = [f"{plot.name}: {plot.failure}" for plot in written if plot.failure]
    report, pictures = content(run), list(explain_pictures(run, folder))
    environment = page_environment()
    data = json_data(page_data(run, [plot.name for plot in plots]))
    scripts = [script(name) for name in SCRIPTS]
    for name in FILES:
        template = environment.get_template(f"{name}.j2")
        text = template.render(
            report=report, plots=plots, failed=failed, pictures=pictures, data=data, scripts=scripts
        )
        try:
            (folder / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise _not_written(folder / name, error) from None
    return folder / "report.html"


def has_report(run_directory: Path) -> bool:
    """Whether a report has been written into a run directory."""
    return all((run_directory / name).is_file() for name in FILES)


def _not_written(path: Path, error: OSError) -> UserError:
    """The error for a report that cannot be written."""
    return UserError(
        f"{path}: cannot write the report: {error.strerror}; name another directory with --out"
    )


@dataclass(frozen=True)
class _Plot:
    """A plot of a report.

    Attributes:
        name: its name.
        caption: its caption.
        svg: the SVG for embedding in the HTML; None if there is nothing to plot, or it failed.
        failure: why it failed; empty otherwise.
    """

    name: str
    caption: str
    svg: Markup | None = None
    failure: str = ""


def _write_plot(
    run: Run, name: str, build: Callable[[Run], Figure | None], caption: str, folder: Path
) -> _Plot:
    """Writes plots/NAME.svg and .png into a folder."""
    try:
        with plotting():
            figure = build(run)
            if figure is None:
                return _Plot(name, caption)
            save(figure, folder / "plots" / f"{name}.png")
            path = save(figure, folder / "plots" / f"{name}.svg")
        svg = Markup(_inline(path.read_text(encoding="utf-8"), name))
    except Exception as error:  # whatever it is, it must not cost the report
        reason = printable((str(error).strip() or repr(error)).splitlines()[0])
        return _Plot(name, caption, failure=reason)
    return _Plot(name, caption, svg)


def _inline(svg: str, name: str) -> str:
    """The SVG for embedding: without prolog, with ids unique to the plot, without a size.

    Ids must be unique because several SVGs stand in one HTML page; the page sets the size.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", svg)
    tag, rest = svg.split(">", 1)
    tag = re.sub(r' (?:width|height)="[^"]*"', "", tag)
    return f'{tag} role="img" aria-label="{name.replace("_", " ")}">{rest}'
