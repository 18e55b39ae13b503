"""The tables of a report, as texts: the same for the console, Markdown and HTML."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from headsearch.report.columns import COLUMNS, Column, score_column, with_error
from headsearch.report.statistics.ranking import contenders, rank_by, reporting_images
from headsearch.report.statistics.seed_noise import RankNoise, rank_noise
from headsearch.runs.rank_by import criterion
from headsearch.runs.run import Run
from headsearch.runs.tables import Ranked, ranked

FIGURES = (
    "score",
    "discrepancy",
    "head_knn",
    "head_linear",
    "gain",
    "effective_rank",
    "params_m",
    "gflops",
    "step_ms",
)
NARROWER = ("step_ms", "gflops", "params_m", "effective_rank")
NARROWEST = ("head_linear", "score", "discrepancy", "gain", "head_knn")
"""Figures that a narrow terminal does without, the first first."""
COMPACT_FIGURES = ("score", "discrepancy", "head_knn", "head_linear", "gain", "params_m")


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        headings: of the columns.
        numeric: whether each column is aligned right.
        rows: the cells of each row.
        dispensable: headings of the columns that a narrow terminal does without, the first first.
    """

    headings: list[str]
    numeric: list[bool]
    rows: list[list[str]]
    dispensable: Sequence[str] = ()


def ranking_table(run: Run, *, compact: bool = False) -> Table:
    """The ranking, a row a candidate, best first. Columns that are empty for all are left out.

    Args:
        run: finished or not.
        compact: only the columns that fit a terminal.
    """
    rows = ranked(run.ranking)
    names = [
        name
        for name in (COMPACT_FIGURES if compact else FIGURES)
        if any(math.isfinite(_figure(row, name)) for row in rows)
        and (name != "score" or rank_by(run) != "discrepancy")  # it would repeat that column
    ]
    columns = {**COLUMNS, "score": score_column(run)}
    intervals = not compact
    noise = rank_noise(run)
    reasons = any(row.reason for row in rows) and not compact
    headings = [
        "Rank",
        *(["Group"] if noise and noise.groups else []),
        "Candidate",
        "State",
        "Rungs",
    ]
    numeric = [name in ("Rank", "Rungs") for name in headings]
    headings += [columns[n].heading for n in names]
    return Table(
        headings=[*headings, "Reason"] if reasons else headings,
        numeric=[*numeric, *(True for _ in names), *([False] if reasons else [])],
        rows=[
            [
                *_places(row, noise),
                row.candidate,
                row.state,
                str(row.rungs),
                *(_cell(row, name, columns[name], intervals) for name in names),
                *([row.reason] if reasons else []),
            ]
            for row in rows
        ],
        dispensable=[
            "Reason",
            *(columns[name].heading for name in NARROWER if name in names),
            "Rungs",
            *(columns[name].heading for name in NARROWEST if name in names),
            "Group",
            "State",
        ],
    )


def ranking_legend(run: Run) -> str:
    """What the ranking goes by, and which labels the figures of its table are measured on."""
    by, labelled = criterion(rank_by(run)), run.facts.get("labelled") is not False
    words = run.words.say(by.words)
    if rank_by(run) == "discrepancy":
        ranked_by = f"Ranked by {words}" + ("" if labelled else ", because there are no labels")
    else:
        labels = ", on the labels that choose" if by.needs_labels else ""
        ranked_by = f"Ranked by Score: {words}{labels}"
    if not labelled:
        return f"{ranked_by}."
    return f"{ranked_by}. k-NN and Linear are on the reporting labels, which do not choose."


def _places(row: Ranked, noise: RankNoise | None) -> list[str]:
    """The rank with its interval, and the head's group letters if several seeds were run."""
    if noise is None or row.candidate not in noise.ranks:
        return [str(row.rank), *(["–"] if noise and noise.groups else [])]
    low, high = noise.ranks[row.candidate]
    groups = ["".join(noise.groups[row.candidate])] if noise.groups else []
    return [f"{row.rank} [{low}–{high}]", *groups]


def _figure(row: Ranked, name: str) -> float:
    return float(getattr(row, name))


def _cell(row: Ranked, name: str, column: Column, intervals: bool) -> str:
    text = column.text(_figure(row, name))
    if not intervals or column.interval is None:
        return text
    low, high = (_figure(row, bound) for bound in column.interval)
    return f"{text} [{column.text(low)}, {column.text(high)}]" if math.isfinite(low) else text


def baselines_table(run: Run) -> Table | None:
    """Accuracies of raw inputs, untrained base, trained base and first-ranked head.

    All are on the reporting labels. None if no baseline was measured.
    """
    baselines = run.facts.get("baselines", {})
    images = reporting_images(run)
    probes = [
        probe
        for probe in ("knn", "linear")
        if any(
            baselines.get(f"{kind}_{probe}") is not None for kind in ("raw", "untrained", "base")
        )
    ]
    if not probes:
        return None
    lines = [
        (title, [_fraction(baselines.get(f"{kind}_{probe}")) for probe in probes])
        for kind, title in (
            ("raw", run.words.raw[:1].upper() + run.words.raw[1:]),
            ("untrained", "Untrained base"),
            ("base", "Trained base"),
        )
    ]
    best = contenders(ranked(run.ranking))
    if best:
        title = f"First-ranked head ({best[0].candidate})"
        lines.append((title, [_figure(best[0], f"head_{probe}") for probe in probes]))
    headings = [f"{COLUMNS[f'head_{probe}'].short} (reporting labels)" for probe in probes]
    return Table(
        ["Representation", *headings],
        [False, *(True for _ in probes)],
        [
            [title, *("–" if math.isnan(v) else with_error(v, images) for v in values)]
            for title, values in lines
        ],
    )


def _fraction(value: float | None) -> float:
    return math.nan if value is None else float(value)


def html_table(table: Table) -> str:
    """A table as HTML, for notebooks; every cell is escaped."""

    def row(cells: list[str], tag: str) -> str:
        sides = ("right" if numeric else "left" for numeric in table.numeric)
        written = (
            f'<{tag} style="text-align:{side}">{html.escape(cell)}</{tag}>'
            for cell, side in zip(cells, sides, strict=True)
        )
        return f"<tr>{''.join(written)}</tr>"

    body = "".join(row(cells, "td") for cells in table.rows)
    head = row(table.headings, "th")
    return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"
