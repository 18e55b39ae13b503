"""The leaderboard of a search: state and scores of every candidate, written as the run's tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
from pydantic import TypeAdapter

from headsearch.evaluation.other_data_rows import rows_of_head, with_rows
from headsearch.evaluation.scores import (
    RungScores,
    Scores,
    accuracy_columns,
    other_data_columns,
    top5_column,
)
from headsearch.models.space import Candidate
from headsearch.runs.other_data_tables import write_other_data
from headsearch.runs.tables import (
    FURTHER_SCORES,
    RANKING_COLUMNS,
    RUNG_COLUMNS,
    SCORE_COLUMNS,
    rank,
    write_table,
)


@dataclass
class Entry:
    """The state and the scores of one candidate: its row in ranking.csv.

    Attributes:
        trial: the number of its Optuna trial.
        cohort: the index of its cohort.
        step_ms: time of one forward and backward pass of the head alone, in milliseconds.
        state: running, complete, pruned, collapsed or failed.
        rungs: the last rung at which it was scored.
        score: the score that ranks candidates, averaged over seeds; NaN before the first rung.
        losses: its mean loss since the last read, by seed.
        scores: all its scores at that rung, averaged over seeds.
        reason: why its training ended early; empty otherwise.
        told: whether its end was reported to Optuna.
    """

    candidate: Candidate
    trial: int
    cohort: int
    step_ms: float = math.nan
    state: str = "running"
    rungs: int = 0
    score: float = math.nan
    losses: dict[int, float] = field(default_factory=dict)
    scores: Scores | None = None
    reason: str = ""
    told: bool = False

    def end(self, state: str, reason: str) -> None:
        """Records how its training ended: complete, pruned, collapsed or failed, and why."""
        self.state, self.reason = state, reason

    @property
    def ended(self) -> bool:
        """Whether its training has ended, for whatever reason."""
        return self.state != "running"

    @property
    def loss(self) -> float:
        """The mean over seeds; NaN before the first step."""
        return fmean(self.losses.values()) if self.losses else math.nan

    def row(self) -> dict[str, Any]:
        """The row of ranking.csv, without the rank; unknown numbers are NaN."""
        scores = self.scores
        discrepancy = scores.discrepancy if scores else None
        accuracies = accuracy_columns("head", scores.report if scores else None)
        return {
            "candidate": self.candidate.name,
            "family": self.candidate.family,
            "cohort": self.cohort,
            "state": self.state,
            "rungs": self.rungs,
            "score": self.score,
            "discrepancy": discrepancy.value if discrepancy else math.nan,
            "discrepancy_low": discrepancy.low if discrepancy else math.nan,
            "discrepancy_high": discrepancy.high if discrepancy else math.nan,
            **accuracies,
            **other_data_columns(scores.other_data.report if scores else {}),
            "effective_rank": scores.effective_rank if scores else math.nan,
            "params_m": self.candidate.params_m,
            "gflops": self.candidate.gflops,
            "step_ms": self.step_ms,
            "reason": self.reason,
        }


@dataclass
class Leaderboard:
    """All candidates of a run and their scores at every rung.

    Attributes:
        entries: the candidates by name, in the order in which they entered the search.
        rung_rows: the rows of rungs.csv.
        score_rows: the rows of scores.csv.
        other_data_rows: the rows of dense.csv and tasks.csv.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    rung_rows: list[dict[str, Any]] = field(default_factory=list)
    score_rows: list[dict[str, Any]] = field(default_factory=list)
    other_data_rows: list[dict[str, Any]] = field(default_factory=list)

    def enter(self, candidate: Candidate, trial: int, cohort: int) -> Entry:
        """Adds a candidate that is about to train."""
        entry = Entry(candidate, trial, cohort)
        self.entries[candidate.name] = entry
        return entry

    @property
    def cohorts(self) -> dict[int, int]:
        """The cohort of each candidate, by trial number."""
        return {entry.trial: entry.cohort for entry in self.entries.values()}

    def live(self, cohort: int) -> list[Entry]:
        """The heads of a cohort that still train."""
        return [e for e in self.entries.values() if e.cohort == cohort and not e.ended]

    def move_up(self, cohort: int, by: int) -> None:
        """Adds `by` to the index of all cohorts after this one."""
        for entry in self.entries.values():
            if entry.cohort > cohort:
                entry.cohort += by

    def begin_anew(self, entry: Entry, cohort: int) -> None:
        """Clears the results of a candidate that starts training anew in this cohort."""
        name = entry.candidate.name
        self.entries[name] = Entry(entry.candidate, entry.trial, cohort, entry.step_ms)
        self.rung_rows = [row for row in self.rung_rows if row["candidate"] != name]
        self.score_rows = [row for row in self.score_rows if row["candidate"] != name]
        self.other_data_rows = with_rows(self.other_data_rows, name, [])

    def record(
        self, name: str, rung: int, step: int, images: int, scores: RungScores, score: float
    ) -> None:
        """Records a candidate's scores at a rung, and the base's: a row of rungs.csv.

        Args:
            name: the candidate.
            rung: the rung.
            step: the number of steps that each seed has taken.
            images: the number of images that those steps used.
            scores: scores of base and heads, averaged over seeds.
            score: the score that ranks candidates, averaged over seeds.
        """
        entry, head_scores = self.entries[name], scores.heads[name]
        entry.scores, entry.rungs, entry.score = head_scores, rung, score
        self.rung_rows.append(
            {
                "candidate": name,
                "cohort": entry.cohort,
                "rung": rung,
                "step": step,
                "images": images,
                "discrepancy": head_scores.discrepancy_value,
                **accuracy_columns("head", head_scores.report),
                **accuracy_columns("base", scores.base.report),
                "loss": entry.loss,
                **top5_column("head", head_scores.report),
                **top5_column("base", scores.base.report),
                **other_data_columns(head_scores.other_data.report),
                **other_data_columns(scores.base.other_data.report, "base_"),
            }
        )
        self.other_data_rows = with_rows(
            self.other_data_rows,
            name,
            rows_of_head(name, entry.cohort, rung, head_scores.other_data, scores.base.other_data),
        )

    def record_seed(
        self, name: str, seed: int, rung: int, step: int, scores: RungScores, score: float
    ) -> None:
        """Records a candidate's scores with one seed: a row of scores.csv.

        Accuracies are measured on the labels that may be used to choose between heads, not on the
        labels that are reported. The arguments are those of `record`, for one seed.
        """
        head_scores = scores.heads[name]
        self.score_rows.append(
            {
                "candidate": name,
                "seed": seed,
                "rung": rung,
                "step": step,
                "score": score,
                "discrepancy": head_scores.discrepancy_value,
                **head_scores.forms,
                **accuracy_columns("choose", head_scores.choose),
                **accuracy_columns("base_choose", scores.base.choose),
                "effective_rank": head_scores.effective_rank,
                "loss": self.entries[name].losses.get(seed, math.nan),
                **{each: head_scores.further.get(each, math.nan) for each in FURTHER_SCORES},
                **other_data_columns(head_scores.other_data.choose),
            }
        )

    def record_of(self) -> dict[str, Any]:
        """The leaderboard as JSON data; `restore` reads it back.

        The keys are those of version 0.1, whose snapshots stay readable.
        """
        entries = {
            name: {
                key: value
                for key, value in vars(entry).items()
                if key not in ("candidate", "scores", "told")
            }
            | {"scores": asdict(entry.scores) if entry.scores else None}
            for name, entry in self.entries.items()
        }
        return {
            "standings": entries,
            "rung_rows": self.rung_rows,
            "score_rows": self.score_rows,
            "dense_rows": self.other_data_rows,
        }

    def restore(self, record: Mapping[str, Any], candidates: Mapping[int, Candidate]) -> None:
        """Restores a leaderboard from its record.

        Args:
            record: what `record_of` returned.
            candidates: the candidates by trial number.
        """
        self.rung_rows, self.score_rows = list(record["rung_rows"]), list(record["score_rows"])
        self.other_data_rows = list(record.get("dense_rows", []))
        self.entries = {}
        for name, kept in record["standings"].items():
            scores = kept["scores"]
            if scores and "dense" in scores:  # in snapshots of older versions
                scores = {**scores, "other_data": scores["dense"] or {}}
            self.entries[name] = Entry(
                candidates[kept["trial"]],
                **{
                    **kept,
                    "losses": {int(seed): loss for seed, loss in kept["losses"].items()},
                    "scores": TypeAdapter(Scores).validate_python(scores) if scores else None,
                },
            )

    def ranking(self) -> pd.DataFrame:
        """ranking.csv: a row for each candidate, the best first."""
        return ordered([entry.row() for entry in self.entries.values()])

    def base_of_the_first(self) -> dict[str, float]:
        """The accuracies of the base that trained with the first-ranked head (see below)."""
        return base_of_the_first(self.ranking(), self.rung_rows)

    def write(self, run_directory: Path) -> None:
        """Writes the tables of the run; dense.csv and tasks.csv only if they have rows."""
        write_tables(run_directory, self.ranking(), self.rung_rows, self.score_rows)
        write_other_data(run_directory, self.other_data_rows)


def ordered(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """ranking.csv, made from one row for each candidate."""
    if not rows:
        return pd.DataFrame(columns=list(RANKING_COLUMNS))
    ranking: pd.DataFrame = rank(pd.DataFrame(list(rows)))
    return ranking


def base_of_the_first(
    ranking: pd.DataFrame, rung_rows: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """The base's accuracies at the last rung of the first-ranked head, in that head's cohort.

    With joint coupling, the heads change the base, so each cohort has a different one. The result
    is empty before rung 1 and for data without labels.
    """
    if ranking.empty or ranking.iloc[0]["rungs"] == 0:
        return {}
    first = ranking.iloc[0]["candidate"]
    row = [row for row in rung_rows if row["candidate"] == first][-1]
    accuracies = {key: row[key] for key in ("base_knn", "base_linear")}
    return {key: value for key, value in accuracies.items() if value == value}


def write_tables(
    run_directory: Path,
    ranking: pd.DataFrame,
    rung_rows: Sequence[Mapping[str, Any]],
    score_rows: Sequence[Mapping[str, Any]],
) -> None:
    """Writes ranking.csv, rungs.csv and scores.csv."""
    write_table(run_directory / "ranking.csv", ranking)
    rungs = pd.DataFrame(list(rung_rows), columns=list(RUNG_COLUMNS))
    write_table(run_directory / "rungs.csv", rungs)
    scores = pd.DataFrame(list(score_rows), columns=list(SCORE_COLUMNS))
    write_table(run_directory / "scores.csv", scores)
