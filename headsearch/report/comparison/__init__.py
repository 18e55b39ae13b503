"""Comparison of several runs: settings, rankings, agreement, and the page that shows them."""

from headsearch.report.comparison.result import Comparison, compare, compare_runs

__all__ = ["Comparison", "compare", "compare_runs"]
