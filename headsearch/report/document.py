"""Writes report.md, report.html and the plots of a run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from headsearch.errors import UserError
from headsearch.report.assets import PLOTLY, json_data, script
from headsearch.report.charts import page_data
from headsearch.report.content import content
from headsearch.report.explained import explain_pictures
from headsearch.report.plots.column_plot import column_figure
from headsearch.report.plots.discrepancy_accuracy import accuracy_column, discrepancy_accuracy
from headsearch.report.plots.page_plot import written_plots
from headsearch.report.plots.pruning_timeline import pruning_timeline
from headsearch.report.plots.scores_over_rungs import scores_over_rungs
from headsearch.report.templates import page_environment
from headsearch.runs.directory import write_atomically
from headsearch.runs.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILES = ("report.md", "report.html")
"""The files of a report, besides its plots."""


SCRIPTS = (PLOTLY, "charts.js", "tables.js", "report.js")
"""The scripts of report.html, in this order."""


def _gain(run: Run) -> Figure | None:
    """Gain against discrepancy; None if no head was verified."""
    return column_figure(run, "discrepancy", "gain") if "gain" in run.ranking.columns else None


def _against_accuracy(run: Run, *names: str) -> Figure | None:
    """The first of some scores that the run has, against accuracy; None without any."""
    name = next((n for n in names if n in run.ranking and run.ranking[n].notna().any()), None)
    return column_figure(run, accuracy_column(run), name) if name is not None else None


PLOTS: dict[str, tuple[Callable[[Run], Figure | None], str]] = {
    "discrepancy_accuracy": (
        discrepancy_accuracy,
        "Each head's accuracy against its discrepancy from the base: a curve through its rungs, "
        "ending at its marker. Bars are 95% intervals of the discrepancy (over {samples}) and of "
        "the accuracy (on the reporting {samples}). The trend is that at the last rung before "
        "pruning.",
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
        lambda run: _against_accuracy(run, "seg_linear"),
        "Segmentation of dense images by each head's map, against its accuracy on whole images.",
    ),
    "accuracy_detection": (
        lambda run: _against_accuracy(run, "det_ap50"),
        "Detection in dense images by each head's map, against its accuracy on whole images.",
    ),
    "accuracy_tasks": (
        lambda run: _against_accuracy(run, "task_mean"),
        "The mean over the further tasks of each head, against its accuracy on the labels of the "
        "search.",
    ),
    "discrepancy_gain": (
        _gain,
        "The gain of each verified head in solo runs, against the discrepancy that the search "
        "measured. Bars are 95% intervals; those of the gain hold for all heads at once.",
    ),
}
"""The plots of a report: name to the function that builds it and its caption (`Words.say`)."""


def write_report(run: Run, out: Path | None = None, *, refresh_s: int | None = None) -> Path:
    """Writes report.md, report.html and plots/ into a directory; returns report.html.

    Works for an unfinished run too. The same run gives the same bytes. A plot that fails is left
    out, and the report says why.

    Args:
        run: the run.
        out: the directory, which is made if it does not exist; by default the run directory.
        refresh_s: after how many seconds a browser loads the page again; None does not.

    Raises:
        UserError: the directory cannot be written.
    """
    folder = run.path if out is None else out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_written(folder, error) from None
    plots, failed = written_plots(
        [
            (name, run.words.say(caption), partial(build, run))
            for name, (build, caption) in PLOTS.items()
        ],
        folder,
    )
    report, pictures = content(run), list(explain_pictures(run, folder))
    environment = page_environment()
    data = json_data(page_data(run, [plot.name for plot in plots]))
    scripts = [script(name) for name in SCRIPTS]
    for name in FILES:
        template = environment.get_template(f"{name}.j2")
        text = template.render(
            report=report, plots=plots, failed=failed, pictures=pictures, data=data,
            scripts=scripts, refresh_s=refresh_s,
        )  # fmt: skip
        try:
            write_atomically(folder / name, text)  # `watch` may write it at the same time
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
