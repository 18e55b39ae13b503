"""The rows of dense.csv and tasks.csv: scores, their errors, and differences from the base."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from headsearch.evaluation.proxies.grouped_scores import GroupedScores, paired_error, standard_error
from headsearch.evaluation.scores import RungScores
from headsearch.runs.other_data_tables import row_of


def rows_of(
    name: str, kind: str, scores: GroupedScores, *, cohort: int = 0, rung: int = 0
) -> list[dict[str, Any]]:
    """The rows of the base or of what it is compared with.

    Args:
        name: of the representation.
        kind: one of `Layout.kinds`.
        scores: on the images that are reported on.
        cohort, rung: where it was scored.
    """
    return [
        row_of(
            name, kind, score, value, cohort=cohort, rung=rung,
            error=standard_error(scores.without[score]), without=scores.without[score],
        )
        for score, value in scores.report.items()
    ]  # fmt: skip


def rows_of_head(
    name: str, cohort: int, rung: int, scores: GroupedScores, base: GroupedScores
) -> list[dict[str, Any]]:
    """The rows of a head, with its difference from the base on the same images."""
    return [
        row_of(
            name, "head", score, value, cohort=cohort, rung=rung,
            error=standard_error(scores.without[score]), without=scores.without[score],
            over_base=value - base.report.get(score, math.nan),
            over_base_error=paired_error(scores.without[score], base.without.get(score, ())),
        )
        for score, value in scores.report.items()
    ]  # fmt: skip


def base_name(cohort: int) -> str:
    """The name in dense.csv and tasks.csv of the base of a cohort, by its index."""
    return "base" if cohort == 0 else f"base of cohort {cohort + 1}"


def with_base(
    rows: Sequence[dict[str, Any]], name: str, scores: GroupedScores, *, cohort: int, rung: int
) -> list[dict[str, Any]]:
    """The rows with those of a base at a rung; at the very start it is the untrained base too.

    Args:
        rows: those so far.
        name: of the base.
        scores: of the base.
        cohort, rung: where it was scored.
    """
    rows = with_rows(rows, name, rows_of(name, "base", scores, cohort=cohort, rung=rung))
    if rung or cohort:
        return rows
    return with_rows(rows, "untrained", rows_of("untrained", "untrained", scores))


def with_solo_run(
    rows: Sequence[dict[str, Any]], scores: RungScores, rung: int
) -> list[dict[str, Any]]:
    """The rows of a solo run with those of its base, and of its head if it has one, at a rung."""
    base = scores.base.other_data
    kept = with_base(rows, base_name(0), base, cohort=0, rung=rung)
    for name, head in scores.heads.items():
        kept = with_rows(kept, name, rows_of_head(name, 0, rung, head.other_data, base))
    return kept


def ceiling_row(value: float | None) -> list[dict[str, Any]]:
    """The row of the grid's ceiling, which both kinds of segmentation share."""
    if value is None:
        return []
    return [row_of("ceiling", "ceiling", s, value) for s in ("seg_knn", "seg_linear")]


def with_rows(
    rows: Sequence[dict[str, Any]], name: str, new: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The rows with those of a representation replaced by new ones."""
    return [*(row for row in rows if row["representation"] != name), *new]
