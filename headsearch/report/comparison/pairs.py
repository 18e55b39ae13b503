"""The pairs of runs: how far each two agree on the figures of their heads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import pandas as pd

from headsearch.report.comparison.runs import Compared
from headsearch.report.statistics.across_runs import FIGURES, Agreement, agreement_of


@dataclass(frozen=True)
class Pair:
    """Two runs and their agreement on each figure.

    Attributes:
        first, second: the runs.
        on: the agreement by figure, in the order of `FIGURES`.
    """

    first: Compared
    second: Compared
    on: Mapping[str, Agreement]

    @property
    def letters(self) -> str:
        """What sentences call the pair."""
        return f"{self.first.letter} and {self.second.letter}"


def pairs_of(runs: Sequence[Compared], names: Sequence[Mapping[str, str]]) -> tuple[Pair, ...]:
    """All pairs of the runs.

    Args:
        runs: the runs.
        names: for each, the names under which its heads are compared.
    """
    return tuple(
        Pair(
            first,
            second,
            {
                figure: agreement_of((first.run, second.run), figure, (of_first, of_second))
                for figure in FIGURES
            },
        )
        for (first, of_first), (second, of_second) in combinations(zip(runs, names, strict=True), 2)
    )


def agreement_table(pairs: Sequence[Pair]) -> pd.DataFrame:
    """The agreement of all pairs, a row for each pair and figure.

    Returns:
        `first, second` (letters), `figure`, `heads` (in common, without controls), `tau, tau_low,
        tau_high`, and for each run of the pair the rung of its figures and the share of its
        training up to there: `rung_first, rung_second, trained_first, trained_second`. NaN where
        there is none.
    """
    return pd.DataFrame(
        {
            "first": pair.first.letter,
            "second": pair.second.letter,
            "figure": figure,
            "heads": found.compared,
            "tau": found.tau.value,
            "tau_low": found.tau.low,
            "tau_high": found.tau.high,
            "rung_first": found.rungs[0] if found.rungs else math.nan,
            "rung_second": found.rungs[1] if found.rungs else math.nan,
            "trained_first": found.trained[0],
            "trained_second": found.trained[1],
        }
        for pair in pairs
        for figure, found in pair.on.items()
    )
