"""The texts and tables of the page of a comparison, without layout; the templates arrange them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from headsearch.report.columns import score_column, signed
from headsearch.report.comparison.pairs import Pair
from headsearch.report.comparison.runs import Compared
from headsearch.report.statistics.across_runs import FEWEST, FIGURES, Agreement
from headsearch.report.statistics.rank_correlation import MIN_CORRELATED
from headsearch.report.statistics.seed_noise import rank_noise, seeds_of
from headsearch.report.tables import Table
from headsearch.text import counted

NOTHING = "–"

RANKING_LEGEND = (
    "Ranks are those that each run gave its heads last, with the 95% interval of the rank within "
    "the run in brackets where it has one. Heads that all runs have come first; the mean rank is "
    "that among these heads."
)
AGREEMENT_LEGEND = (
    "Kendall's τ is 1 if two runs order the heads alike, 0 if their orders have nothing to do with "
    "each other and −1 if they are opposite. Brackets: 95% interval over heads, from "
    f"{counted(MIN_CORRELATED, 'head')} on. τ of fewer than {counted(FEWEST, 'head')} is not "
    "shown. The figures are those of the last rung at which both runs still trained all heads that "
    "they have in common, after as nearly as possible the same share of their training, because "
    "pruning selects heads by their scores. Collapsed heads, failed heads and the controls do not "
    "count. Accuracy is the mean of k-NN and linear accuracy on the reporting labels."
)


@dataclass(frozen=True)
class Content:
    """The texts of one comparison, not yet escaped for Markdown or HTML."""

    title: str
    findings: list[str]
    runs: Table
    cautions: list[str]
    ranking: Table
    ranking_legend: str
    matrix: Table | None
    agreement: Table
    agreement_legend: str
    same: str
    settings: Table | None
    other_settings: Table | None


def runs_table(runs: Sequence[Compared]) -> Table:
    """The runs with their letters."""
    names = [each.name for each in runs]
    rows = [
        [
            each.letter,
            each.name if names.count(each.name) == 1 else str(each.run.path),
            each.base,
            Path(str(each.run.config.get("data", NOTHING))).name,
            str(each.run.config.get("objective", NOTHING)),
            each.rank_by,
            str(seeds_of(each.run)),
            str(len(each.ranking)),
            each.state,
        ]
        for each in runs
    ]
    headings = ["Run", "Directory", "Base", "Data", "Objective", "Ranked by", "Seeds", "Heads",
                "State"]  # fmt: skip
    return Table(
        headings,
        [name in ("Seeds", "Heads") for name in headings],
        rows,
        ["Data", "Seeds", "Heads", "Objective", "Base"],
    )


def ranking_table(
    runs: Sequence[Compared], rankings: pd.DataFrame, *, compact: bool = False
) -> Table:
    """The rankings side by side, a row a head.

    Args:
        runs: the runs.
        rankings: `heads.rankings`.
        compact: without scores and intervals, for a terminal.
    """
    headings, numeric = ["Head"], [False]
    columns: list[list[str]] = [[str(name) for name in rankings["head"]]]
    if rankings["mean_rank"].notna().any():
        headings.append("Mean rank")
        numeric.append(True)
        columns.append([_figure(value, 1) for value in rankings["mean_rank"]])
    for each in runs:
        headings.append(f"{each.letter}: rank")
        numeric.append(True)
        columns.append(_ranks(each, rankings, intervals=not compact))
        if not compact:
            score = score_column(each.run)
            headings.append(f"{each.letter}: {score.heading.lower()}")
            numeric.append(True)
            columns.append([score.text(float(v)) for v in rankings[f"score_{each.letter}"]])
    return Table(headings, numeric, [list(row) for row in zip(*columns, strict=True)])


def matrix_table(runs: Sequence[Compared], pairs: Sequence[Pair]) -> Table | None:
    """τ between the scores of any two runs, with the number of heads; None for two runs."""
    if len(runs) < 3:
        return None
    found = {frozenset((p.first.letter, p.second.letter)): p.on["score"] for p in pairs}
    letters = [each.letter for each in runs]
    return Table(
        ["τ of scores (heads)", *letters],
        [False, *(True for _ in letters)],
        [
            [
                row,
                *(
                    NOTHING if row == letter else _matrix_cell(found[frozenset((row, letter))])
                    for letter in letters
                ),
            ]
            for row in letters
        ],
    )


def agreement_table(pairs: Sequence[Pair]) -> Table:
    """A row for each pair of runs: τ on every figure, and where they were compared."""
    return Table(
        ["Runs", "Heads compared", "At rung", *(f"τ of {name}" for name in FIGURES)],
        [False, True, False, *(True for _ in FIGURES)],
        [
            [
                f"{pair.first.letter}, {pair.second.letter}",
                str(max(found.compared for found in pair.on.values())),
                _places(pair),
                *(_tau(found) for found in pair.on.values()),
            ]
            for pair in pairs
        ],
    )


def settings_table(runs: Sequence[Compared], settings: pd.DataFrame, decide: bool) -> Table | None:
    """The settings that differ; None if none does.

    Args:
        runs: the runs.
        settings: `settings.differing`.
        decide: whether to list those that decide the results, or the others.
    """
    rows = settings[settings["decides"] == decide]
    if rows.empty:
        return None
    letters = [each.letter for each in runs]
    return Table(
        ["Setting", *letters],
        [False] * (1 + len(letters)),
        [[str(row["setting"]), *(str(row[letter]) for letter in letters)]
         for row in rows.to_dict("records")],
    )  # fmt: skip


def left_out(number: int, shown: int) -> str:
    """A note on the pairs of runs that have no plot; empty if all have one."""
    if number <= shown:
        return ""
    return f"Plotted: {shown} of {counted(number, 'pair')} of runs; the table has all."


def tau_words(found: Agreement) -> str:
    """τ in words, to follow the name of a figure; empty if it is not given."""
    return "" if math.isnan(found.tau.value) else f": τ = {_tau(found)}"


def _ranks(each: Compared, rankings: pd.DataFrame, *, intervals: bool) -> list[str]:
    """The rank of each head in a run: '2 [1–5]', '7, pruned'; a dash if the run lacks the head."""
    noise = rank_noise(each.run) if intervals else None
    rows = {row.rank: row for row in each.ranking}
    cells = []
    for rank in rankings[f"rank_{each.letter}"]:
        row = None if pd.isna(rank) else rows[int(rank)]
        if row is None:
            cells.append(NOTHING)
            continue
        found = noise.ranks.get(row.candidate) if noise is not None else None
        interval = f" [{found[0]}–{found[1]}]" if found else ""
        state = "" if row.state in ("complete", "running") else f", {row.state}"
        cells.append(f"{rank}{interval}{state}")
    return cells


def _places(pair: Pair) -> str:
    """The rungs at which two runs were compared: '1 of 5, 1 of 4'."""
    found = next((each for each in pair.on.values() if each.rungs is not None), None)
    if found is None or found.rungs is None:
        return NOTHING
    totals = (
        each.run.facts.get("rung_count") or each.run.config.get("rungs")
        for each in (pair.first, pair.second)
    )
    return ", ".join(f"{rung} of {total or '?'}" for rung, total in zip(found.rungs, totals,
                                                                        strict=True))  # fmt: skip


def _tau(found: Agreement) -> str:
    tau = found.tau
    if math.isnan(tau.value):
        return NOTHING
    if math.isnan(tau.low):
        return signed(tau.value)
    return f"{signed(tau.value)} [{signed(tau.low)}, {signed(tau.high)}]"


def _matrix_cell(found: Agreement) -> str:
    return f"{_tau(found)} ({found.compared})"


def _figure(value: float, digits: int) -> str:
    return NOTHING if math.isnan(value) else f"{value:.{digits}f}"
