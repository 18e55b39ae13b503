"""What a search records of dense data and further tasks: facts, baselines, the base at rungs."""

from __future__ import annotations

from headsearch.config import normalization
from headsearch.errors import UserError
from headsearch.evaluation.other_data_rows import (
    base_name,
    ceiling_row,
    rows_of,
    with_base,
    with_rows,
)
from headsearch.evaluation.scores import RungScores
from headsearch.runs.facts import DenseFacts, RunFacts, TaskFacts
from headsearch.runs.other_data_tables import RAW
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


def task_facts(prepared: SearchSetup) -> TaskFacts | None:
    """The facts about the further tasks of a search; None without any."""
    tasks = prepared.training.tasks
    if tasks is None:
        return None
    return {
        "notes": list(tasks.notes),
        "tasks": [task.name for task in tasks.scorer.tasks],
        "fingerprint": tasks.fingerprint,
    }


def check_same_other_data(begun: RunFacts, prepared: SearchSetup, where: str) -> None:
    """Checks that dense data and tasks are those that a search began with.

    Args:
        begun: the facts that were recorded then.
        prepared: the search now.
        where: the run, for the message.

    Raises:
        UserError: they are others.
    """
    pairs = (
        ("dense data", "--dense-data PATH", begun.get("dense"), dense_facts(prepared)),
        ("tasks", "--tasks NAME=PATH", begun.get("tasks"), task_facts(prepared)),
    )
    for what, flag, then, now in pairs:
        if (then or {}).get("fingerprint") != (now or {}).get("fingerprint"):
            raise UserError(
                f"{where}: the {what} have changed since the run began; if they were moved: "
                f"headsearch resume {where} {flag}"
            )


def record_baselines(leaderboard: Leaderboard, prepared: SearchSetup) -> None:
    """Adds the rows of what needs no learning, once: raw inputs, position, the grid's ceiling."""
    dense, tasks = prepared.training.dense, prepared.training.tasks
    known = {row["kind"] for row in leaderboard.other_data_rows}
    rows = leaderboard.other_data_rows
    if tasks is not None and RAW not in known:
        rows = with_rows(rows, RAW, rows_of(RAW, RAW, tasks.scorer.raw()))
    if dense is not None and "position" not in known:
        scale = normalization.parse(prepared.config.normalization)
        for name, scores in dense.scorer.baselines(dense.grid, scale).items():
            rows = with_rows(rows, name, rows_of(name, name, scores))
        rows = rows + ceiling_row(dense.scorer.ceiling(dense.grid))
    leaderboard.other_data_rows = rows


def record_base(leaderboard: Leaderboard, cohort: int, rung: int, scores: RungScores) -> None:
    """Adds the rows of a cohort's base at a rung; those of rung 0 are the untrained base's too."""
    leaderboard.other_data_rows = with_base(
        leaderboard.other_data_rows, base_name(cohort), scores.base.other_data,
        cohort=cohort, rung=rung,
    )  # fmt: skip
