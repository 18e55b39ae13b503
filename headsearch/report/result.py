"""The Python view of a search: tables, advice, report and plots from its run directory."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from headsearch.config.keywords import api_function
from headsearch.report.advice import advice
from headsearch.report.document import write_report
from headsearch.report.plots.column_plot import plot_columns
from headsearch.report.plots.discrepancy_accuracy import discrepancy_accuracy
from headsearch.report.plots.plot_file import PlotFile
from headsearch.report.plots.style import SCREEN_DPI, plotting, png_bytes
from headsearch.report.statistics.gains import verified
from headsearch.report.statistics.ranking import best_head
from headsearch.report.tables import html_table, ranking_legend, ranking_table
from headsearch.report.verification import verdict
from headsearch.runs.run import Run
from headsearch.runs.tables import ranked


@dataclass(frozen=True, repr=False)
class RunView:
    """A search, complete or not, read from its run directory."""

    run: Run

    @property
    def run_directory(self) -> Path:
        """The run directory."""
        return self.run.path

    @property
    def ranking(self) -> pd.DataFrame:
        """ranking.csv: a row for each candidate, the best first."""
        return self.run.ranking.copy()

    @property
    def rungs(self) -> pd.DataFrame:
        """rungs.csv: a row for each candidate and rung."""
        return self.run.rungs.copy()

    @property
    def solo(self) -> pd.DataFrame:
        """solo.csv: a row for each solo run of `verify`."""
        return self.run.solo.copy()

    @property
    def dense(self) -> pd.DataFrame:
        """dense.csv: a row for each representation and dense score, with its standard error.

        `kind` is head, base, untrained, position, pixels or ceiling; `over_base` is a head's
        difference from the base on the same images. Empty without `dense_data`.
        """
        return self.run.dense.copy()

    @property
    def tasks(self) -> pd.DataFrame:
        """tasks.csv: a row for each representation, further task and score.

        With standard errors over samples, and of a head its difference from the base on the same
        samples. Empty without `tasks`.
        """
        return self.run.tasks.copy()

    @property
    def best(self) -> str | None:
        """The best candidate that is not a control and did not collapse or fail, or None."""
        row = best_head(ranked(self.run.ranking))
        return row.candidate if row is not None else None

    @property
    def advice(self) -> str:
        """Which head to use, why, and how certain that is, in a sentence."""
        return advice(self.run)

    @property
    def verdict(self) -> str | None:
        """What the solo runs of `verify` show, in words; None if there are none."""
        verification = verified(self.run)
        return verdict(verification) if verification is not None else None

    @api_function()
    def report(self, out: str | Path | None = None) -> Path:
        """Writes report.md, report.html and the plots: `headsearch report`.

        Args:
            out: the directory to write into; by default the run directory, which is else only read.

        Returns:
            The path of report.html.

        Raises:
            UserError: the directory cannot be written.
        """
        return write_report(self.run, None if out is None else Path(out))

    @api_function()
    def plot(
        self, x: str = "discrepancy", y: str = "head_knn", out: str | Path | None = None
    ) -> PlotFile:
        """Plots one column of `ranking` or `rungs` against another.

        Args:
            x: the column on the horizontal axis.
            y: the column on the vertical axis.
            out: the file to write: .png, .svg or .pdf. By default a file in RUN/plots.

        Returns:
            The path of the file. A notebook shows a .png or .svg as a picture.

        Raises:
            UserError: no such column, or one without figures, or the file cannot be written.
        """
        target = self.run_directory / "plots" / f"{y}-over-{x}.png" if out is None else Path(out)
        return PlotFile(plot_columns(self.run, x, y, target))

    def __repr__(self) -> str:
        return f"<headsearch result {str(self.run_directory)!r}: {self.advice}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the advice, the ranking and its plot."""
        table = html_table(ranking_table(self.run, compact=True))
        legend = html.escape(ranking_legend(self.run))
        return f"<p>{html.escape(self.advice)}</p>{table}<p>{legend}</p>{self._picture()}"

    def _picture(self) -> str:
        """The main plot as an HTML image; empty if nothing has been scored."""
        if not self.run.ranking["discrepancy"].notna().any():
            return ""
        with plotting():
            figure = discrepancy_accuracy(self.run)
            width = round(figure.get_figwidth() * SCREEN_DPI)
            png = base64.b64encode(png_bytes(figure)).decode("ascii")
        source = f"data:image/png;base64,{png}"
        return f'<img width="{width}" alt="Accuracy over discrepancy" src="{source}">'
