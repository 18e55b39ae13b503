"""The Python view of a comparison: `headsearch.compare`."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from headsearch.config.keywords import api_function
from headsearch.report.comparison import content as texts
from headsearch.report.comparison.document import write_comparison
from headsearch.report.comparison.heads import names_of, rankings
from headsearch.report.comparison.pairs import Pair, agreement_table, pairs_of
from headsearch.report.comparison.runs import Compared, compared
from headsearch.report.comparison.sentences import cautions, findings
from headsearch.report.comparison.settings import differing, same
from headsearch.report.result import RunView
from headsearch.report.tables import Table, html_table
from headsearch.runs.run import Run, read_run

OUT = Path("comparison")
"""Where a comparison is written by default, in the working directory."""


@dataclass(frozen=True, repr=False)
class Comparison:
    """Several searches, compared. Tables call them A, B, C, … in the order given.

    Attributes:
        compared: the searches with their letters.
    """

    compared: tuple[Compared, ...]

    @property
    def runs(self) -> dict[str, Path]:
        """The run directories by letter."""
        return {each.letter: each.run.path for each in self.compared}

    @cached_property
    def _names(self) -> list[dict[str, str]]:
        return names_of(self.compared)

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """Each two runs and their agreement, with the figures of their common heads."""
        return pairs_of(self.compared, self._names)

    @property
    def rankings(self) -> pd.DataFrame:
        """A row for each head: `head, family, control, runs, mean_rank, rank_A, score_A, …`.

        `runs` is the number of runs that have the head; `mean_rank` is that among the heads that
        all runs have. For each run: `rank_A, score_A, state_A, rungs_A`.
        """
        return rankings(self.compared, self._names)

    @property
    def agreement(self) -> pd.DataFrame:
        """A row for each pair of runs and figure (`score`, `discrepancy`, `accuracy`): Kendall's τ.

        `first, second, figure, heads, tau, tau_low, tau_high, rung_first, rung_second,
        trained_first, trained_second`: the number of heads in common without controls, τ with its
        95% interval, and the rung (and share of the training) at which each run was compared.
        """
        return agreement_table(self.pairs)

    @property
    def settings(self) -> pd.DataFrame:
        """A row for each setting that differs: `setting, decides, A, B, …`.

        `decides` is False for settings that change results by rounding at most.
        """
        return differing(self.compared)

    @property
    def findings(self) -> list[str]:
        """What the runs agree on, in sentences."""
        return list(findings(self.compared, self._names, self.pairs))

    @property
    def cautions(self) -> list[str]:
        """Why the runs may not be comparable, in sentences."""
        return list(cautions(self.compared, self.rankings, self.settings))

    def tables(self) -> tuple[Table, Table]:
        """The runs and their rankings, for a terminal or a notebook."""
        return (
            texts.runs_table(self.compared),
            texts.ranking_table(self.compared, self.rankings, compact=True),
        )

    @api_function()
    def report(self, out: str | Path = OUT) -> Path:
        """Writes compare.html, compare.md and plots: `headsearch compare`.

        Args:
            out: the directory to write into. It must not lie in a run.

        Returns:
            The path of compare.html.

        Raises:
            UserError: the directory lies in a run, or cannot be written.
        """
        return write_comparison(self._content(), self.compared, self.pairs, Path(out))

    def _content(self) -> texts.Content:
        runs, found, settings = self.compared, self.rankings, self.settings
        return texts.Content(
            title=f"Comparison of {len(runs)} runs",
            findings=self.findings,
            runs=texts.runs_table(runs),
            cautions=list(cautions(runs, found, settings)),
            ranking=texts.ranking_table(runs, found),
            ranking_legend=texts.RANKING_LEGEND,
            matrix=texts.matrix_table(runs, self.pairs),
            agreement=texts.agreement_table(self.pairs),
            agreement_legend=texts.AGREEMENT_LEGEND,
            same=same(runs, settings),
            settings=texts.settings_table(runs, settings, decide=True),
            other_settings=texts.settings_table(runs, settings, decide=False),
        )

    def __repr__(self) -> str:
        return f"<headsearch comparison of {len(self.compared)} runs: {' '.join(self.findings)}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the findings, the runs and their rankings."""
        sentences = html.escape(" ".join(self.findings))
        return f"<p>{sentences}</p>" + "".join(map(html_table, self.tables()))


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Compares runs that have been read.

    Raises:
        UserError: there are fewer than two, one is there twice, or one has no scores.
    """
    return Comparison(compared(runs))


@api_function()
def compare(runs: Sequence[RunView | str | Path]) -> Comparison:
    """Compares several searches, complete or not: `headsearch compare`.

    Args:
        runs: the searches: two or more results or run directories.

    Returns:
        Their rankings, agreement and settings as frames; `.report()` writes the page.

    Raises:
        UserError: there are fewer than two, one is there twice, or one has no scores.
    """
    return compare_runs(
        [run.run if isinstance(run, RunView) else read_run(Path(run)) for run in runs]
    )
