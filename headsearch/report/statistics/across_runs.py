"""How two runs agree on the heads that both have: Kendall's τ of a figure at comparable rungs.

The survivors of pruning were selected by their scores, and figures of different rungs differ by the
training in between. So the figures of a run are those of one rung: one at which it still had all
heads that the two runs have in common.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from headsearch.report.statistics.intervals import Interval
from headsearch.report.statistics.rank_correlation import tau_interval
from headsearch.report.statistics.ranking import rank_by
from headsearch.runs.run import Run
from headsearch.runs.tables import CONTROL_FAMILIES, ranked

FEWEST = 4
"""Heads in common below which τ is not given: three heads have only six orders."""


@dataclass(frozen=True)
class Agreement:
    """A figure of the heads that two runs have in common, and how far they order them alike.

    Attributes:
        figure: a name in `FIGURES`.
        rungs: the rung of each run that its figures are of; None if no rung is comparable.
        trained: the share of each run's training up to that rung; NaN without one.
        heads: a row for each head in common, by its name: `family, control` and the figure in each
            run, `first` and `second`. Empty if no rung is comparable.
        compared: the number of heads in common that are no controls.
        tau: Kendall's τ-b over these, with its interval over heads; NaN with fewer than `FEWEST`,
            and without an interval with four.
    """

    figure: str
    rungs: tuple[int, int] | None
    trained: tuple[float, float]
    heads: pd.DataFrame
    compared: int
    tau: Interval


def agreement_of(
    runs: tuple[Run, Run], figure: str, names: tuple[Mapping[str, str], Mapping[str, str]]
) -> Agreement:
    """How two runs agree on a figure of their heads.

    Collapsed and failed heads are left out, because their figures mean nothing. Controls count
    neither for τ nor for the choice of the rungs: `identity` has discrepancy 0 in every run, and
    `own` is another head on each base.

    Args:
        runs: the runs, finished or not.
        figure: a name in `FIGURES`.
        names: for each run, the name under which a candidate is compared.
    """
    first, second = (
        by_rung(run, figure).rename(index=dict(renamed))
        for run, renamed in zip(runs, names, strict=True)
    )
    families = {names[0][row.candidate]: row.family for row in ranked(runs[0].ranking)}
    common = [name for name in first.index if name in second.index]
    heads = [name for name in common if families[name] not in CONTROL_FAMILIES]
    rungs = _comparable(runs, first.loc[heads], second.loc[heads])
    if rungs is None:
        nothing = Interval(math.nan, math.nan, math.nan)
        return Agreement(figure, None, (math.nan, math.nan), pd.DataFrame(), 0, nothing)
    table = pd.DataFrame(
        {
            "family": [families[name] for name in common],
            "control": [families[name] in CONTROL_FAMILIES for name in common],
            "first": first.loc[common, rungs[0]],
            "second": second.loc[common, rungs[1]],
        },
        index=common,
    ).dropna()
    x_N, y_N = (table.loc[heads, side].to_numpy(dtype=float) for side in ("first", "second"))
    enough = len(heads) >= FEWEST
    return Agreement(
        figure,
        rungs,
        (trained_share(runs[0], rungs[0]), trained_share(runs[1], rungs[1])),
        table,
        len(heads),
        tau_interval(x_N, y_N) if enough else Interval(math.nan, math.nan, math.nan),
    )


def by_rung(run: Run, figure: str) -> pd.DataFrame:
    """A figure of each healthy head at each rung, the mean over seeds.

    Args:
        run: the run.
        figure: a name in `FIGURES`.

    Returns:
        A row for each candidate and a column for each rung after rung 0, the untrained network; NaN
        where a head was not scored.
    """
    healthy = {row.candidate for row in ranked(run.ranking) if row.healthy}
    recorded = figure == "score" and not run.scores.empty
    table = run.scores if recorded else run.rungs
    values = run.scores["score"] if recorded else FIGURES[figure](run)
    rows = table[["candidate", "rung"]].assign(value=pd.to_numeric(values)).dropna()
    rows = rows[rows["candidate"].isin(healthy) & (rows["rung"] > 0)]
    wide = rows.groupby(["candidate", "rung"])["value"].mean().unstack("rung")
    return wide.rename(columns=int)


def trained_share(run: Run, rung: int) -> float:
    """The share of its training that a run has done at a rung; the last one is at 1."""
    rungs = int(run.facts.get("rung_count") or run.config.get("rungs") or 0)
    first = float(run.config.get("first_rung") or 0)
    if not rungs:
        return math.nan
    if not first or rungs == 1:
        return rung / rungs
    return first + (1 - first) * (rung - 1) / (rungs - 1)


def _comparable(runs: tuple[Run, Run], first: pd.DataFrame, second: pd.DataFrame) -> (
    tuple[int, int] | None
):  # fmt: skip
    """The last rung of each run at which it still had all these heads, after as much training.

    The run that had them for the smaller share of its training gives its last such rung; the other
    one gives that of its rungs that lies nearest to this share.
    """
    shares = [
        {int(rung): trained_share(run, int(rung)) for rung in table.columns[table.notna().all()]}
        for run, table in zip(runs, (first, second), strict=True)
    ]
    if first.empty or not all(shares):
        return None
    until = min(max(of_run.values()) for of_run in shares)
    nearest = [min(s, key=lambda rung, s=s: abs(s[rung] - until)) for s in shares]  # type: ignore[misc]
    return nearest[0], nearest[1]


def _accuracy(run: Run) -> pd.Series[float]:
    """The mean of k-NN and linear accuracy, on the labels that are reported on."""
    return run.rungs[["head_knn", "head_linear"]].mean(axis=1)


def _score(run: Run) -> pd.Series[float]:
    """The score that ranks the heads of a run that has no scores.csv, from its rungs.csv.

    These runs of the first version could rank by three scores; their accuracies on the labels that
    choose were not kept, so that those on the reported labels stand in for them.
    """
    discrepancy, accuracy = run.rungs["discrepancy"], _accuracy(run)
    known: dict[str, pd.Series[float]] = {
        "accuracy": accuracy,
        "discrepancy": discrepancy,
        "balanced": np.sqrt(discrepancy.clip(lower=0) * accuracy),
    }
    return known.get(rank_by(run), accuracy * math.nan)


FIGURES: dict[str, Callable[[Run], pd.Series[float]]] = {
    "score": _score,
    "discrepancy": lambda run: run.rungs["discrepancy"],
    "accuracy": _accuracy,
}
"""The figures that runs are compared by, each as a column of the rows of rungs.csv.

`score` is what each run ranks by; it is read from scores.csv where a run has one.
"""
