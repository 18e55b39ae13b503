"""What a search records of its dense data: facts, baselines, the base at every rung."""

from __future__ import annotations

from headsearch.config import normalization
from headsearch.evaluation.dense_rows import ceiling_row, rows_of, with_rows
from headsearch.evaluation.scores import RungScores
from headsearch.runs.facts import DenseFacts
from headsearch.study.leaderboard import Leaderboard
from headsearch.study.setup import SearchSetup


def dense_facts(prepared: SearchSetup) -> DenseFacts | None:
    """The facts about the dense data of a search; None without any."""
    dense = prepared.training.dense
    if dense is None:
        return None
    return {
        "notes": list(dense.notes),
        "grid": list(dense.grid),
        "scores": list(dense.available),
        "fit": len(dense.data.train),
        "scored": len(dense.data.evaluation),
        "fingerprint": dense.fingerprint,
    }


def record_baselines(leaderboard: Leaderboard, prepared: SearchSetup) -> None:
    """Adds the rows of position alone, raw pixels and the grid's ceiling, once."""
    dense = prepared.training.dense
    if dense is None or any(row["kind"] == "position" for row in leaderboard.dense_rows):
        return
    found = dense.scorer.baselines(dense.grid, normalization.parse(prepared.config.normalization))
    for name, scores in found.items():
        leaderboard.dense_rows = with_rows(
            leaderboard.dense_rows, name, rows_of(name, name, scores)
        )
    leaderboard.dense_rows += ceiling_row(dense.scorer.ceiling(dense.grid))


def base_name(cohort: int) -> str:
    """The name in dense.csv of the base of a cohort, by its index."""
    return "base" if cohort == 0 else f"base of cohort {cohort + 1}"


def record_base(leaderboard: Leaderboard, cohort: int, rung: int, scores: RungScores) -> None:
    """Adds the rows of a cohort's base at a rung; those of rung 0 are the untrained base's too."""
    if scores.base.dense is None:
        return
    name = base_name(cohort)
    rows = rows_of(name, "base", scores.base.dense, cohort=cohort, rung=rung)
    leaderboard.dense_rows = with_rows(leaderboard.dense_rows, name, rows)
    if rung == 0 and cohort == 0:
        rows = rows_of("untrained", "untrained", scores.base.dense)
        leaderboard.dense_rows = with_rows(leaderboard.dense_rows, "untrained", rows)
