"""The report of a run: advice, tables, Markdown and HTML documents, plots."""

from headsearch.report.advice import advice
from headsearch.report.document import has_report, write_report
from headsearch.report.plots.column_plot import plot_columns
from headsearch.report.tables import Table, ranking_legend, ranking_table
from headsearch.report.verification import verdict, verified_table

__all__ = [
    "Table",
    "advice",
    "has_report",
    "plot_columns",
    "ranking_legend",
    "ranking_table",
    "verdict",
    "verified_table",
    "write_report",
]
