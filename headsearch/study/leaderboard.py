"""The tables of a run while it goes: what is known of each candidate, rung by rung."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
from pydantic import TypeAdapter

from headsearch.evaluation.scores import RungScores, Scores
from headsearch.models.space import Candidate
from headsearch.runs.tables import RANKING_COLUMNS, RUNG_COLUMNS, SCORE_COLUMNS, rank, write_table


@dataclass
class Entry:
    """What is known of one candidate: its row in ranking.csv."""

    candidate: Candidate
    trial: int
    """The number of its Optuna trial."""
    cohort: int
    step_ms: float = math.nan
    state: str = "running"
    rungs: int = 0
    score: float = math.nan
    losses: dict[int, float] = field(default_factory=dict)
    """Under each seed, of late."""
    scores: Scores | None = None
    reason: str = ""
    told: bool = False
    """Whether Optuna knows how it ended."""

    @property
    def ended(self) -> bool:
        return self.state != "running"

    @property
    def loss(self) -> float:
        """The mean over seeds; NaN before the first step."""
        return fmean(self.losses.values()) if self.losses else math.nan

    def row(self) -> dict[str, Any]:
        scores = self.scores
        difference = scores.discrepancy if scores else None
        reported = scores.report if scores else None
        return {
            "candidate": self.candidate.name,
            "family": self.candidate.family,
            "cohort": self.cohort,
            "state": self.state,
            "rungs": self.rungs,
            "score": self.score,
            "discrepancy": difference.value if difference else math.nan,
            "discrepancy_low": difference.low if difference else math.nan,
            "discrepancy_high": difference.high if difference else math.nan,
            "head_knn": reported.knn if reported else math.nan,
            "head_linear": reported.linear if reported else math.nan,
            "effective_rank": scores.effective_rank if scores else math.nan,
            "params_m": self.candidate.params_m,
            "gflops": self.candidate.gflops,
            "step_ms": self.step_ms,
            "reason": self.reason,
        }


@dataclass
class Leaderboard:
    """All candidates of a run and their scores at every rung, in the order they came."""

    entries: dict[str, Entry] = field(default_factory=dict)
    rung_rows: list[dict[str, Any]] = field(default_factory=list)
    score_rows: list[dict[str, Any]] = field(default_factory=list)

    def enter(self, candidate: Candidate, trial: int, cohort: int) -> Entry:
        entry = Entry(candidate, trial, cohort)
        self.entries[candidate.name] = entry
        return entry

    @property
    def cohorts(self) -> dict[int, int]:
        """The cohort of each candidate, by the number of its trial."""
        return {entry.trial: entry.cohort for entry in self.entries.values()}

    def live(self, cohort: int) -> list[Entry]:
        """The heads of a cohort that have not ended."""
        return [s for s in self.entries.values() if s.cohort == cohort and not s.ended]

    def begin_anew(self, entry: Entry, cohort: int) -> None:
        """Forgets what a candidate has come to, for it to train again in this cohort."""
        name = entry.candidate.name
        self.entries[name] = Entry(entry.candidate, entry.trial, cohort, entry.step_ms)
        self.rung_rows = [row for row in self.rung_rows if row["candidate"] != name]
        self.score_rows = [row for row in self.score_rows if row["candidate"] != name]

    def record(self, entry: Entry, rung: int, step: int, images: int, at: RungScores) -> None:
        """Notes a candidate's scores at a rung, beside the base's: their means over seeds."""
        own = at.heads[entry.candidate.name]
        entry.scores = own
        entry.rungs = rung
        base = at.base.report
        self.rung_rows.append(
            {
                "candidate": entry.candidate.name,
                "cohort": entry.cohort,
                "rung": rung,
                "step": step,
                "images": images,
                "discrepancy": own.discrepancy.value if own.discrepancy else math.nan,
                "head_knn": own.report.knn if own.report else math.nan,
                "head_linear": own.report.linear if own.report else math.nan,
                "base_knn": base.knn if base else math.nan,
                "base_linear": base.linear if base else math.nan,
                "loss": entry.loss,
            }
        )

    def record_seed(
        self, entry: Entry, seed: int, rung: int, step: int, at: RungScores, score: float
    ) -> None:
        """Notes all that may choose, on the labels that may: a row of scores.csv."""
        own = at.heads[entry.candidate.name]
        base = at.base.choose
        self.score_rows.append(
            {
                "candidate": entry.candidate.name,
                "seed": seed,
                "rung": rung,
                "step": step,
                "score": score,
                "discrepancy": own.discrepancy.value if own.discrepancy else math.nan,
                **own.forms,
                "choose_knn": own.choose.knn if own.choose else math.nan,
                "choose_linear": own.choose.linear if own.choose else math.nan,
                "base_choose_knn": base.knn if base else math.nan,
                "base_choose_linear": base.linear if base else math.nan,
                "effective_rank": own.effective_rank,
                "loss": entry.losses.get(seed, math.nan),
            }
        )

    def record_of(self) -> dict[str, Any]:
        """All of it as JSON can hold it; `restore` reads it back."""
        of_standings = {
            name: {
                key: value
                for key, value in vars(entry).items()
                if key not in ("candidate", "scores", "told")
            }
            | {"scores": asdict(entry.scores) if entry.scores else None}
            for name, entry in self.entries.items()
        }
        return {
            "standings": of_standings,
            "rung_rows": self.rung_rows,
            "score_rows": self.score_rows,
        }

    def restore(self, record: Mapping[str, Any], candidates: Mapping[int, Candidate]) -> None:
        """Becomes the ledger that a record was made of.

        Args:
            record: of `record_of`.
            candidates: by the number of their trials.
        """
        self.rung_rows, self.score_rows = list(record["rung_rows"]), list(record["score_rows"])
        self.entries = {}
        for name, kept in record["standings"].items():
            scores = kept["scores"]
            self.entries[name] = Entry(
                candidates[kept["trial"]],
                **{
                    **kept,
                    "losses": {int(seed): loss for seed, loss in kept["losses"].items()},
                    "scores": TypeAdapter(Scores).validate_python(scores) if scores else None,
                },
            )

    def ranking(self) -> pd.DataFrame:
        return ordered([entry.row() for entry in self.entries.values()])

    def base_of_the_first(self) -> dict[str, float]:
        """As `base_of_the_first` of this page."""
        return base_of_the_first(self.ranking(), self.rung_rows)

    def write(self, run_directory: Path) -> None:
        """Writes ranking.csv, rungs.csv and scores.csv."""
        write_tables(run_directory, self.ranking(), self.rung_rows, self.score_rows)


def ordered(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """ranking.csv, of a row a candidate."""
    if not rows:
        return pd.DataFrame(columns=list(RANKING_COLUMNS))
    ranking: pd.DataFrame = rank(pd.DataFrame(list(rows)))
    return ranking


def base_of_the_first(
    ranking: pd.DataFrame, rung_rows: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """The base's accuracies at the last rung of the first-ranked head, in its own cohort.

    In joint coupling each cohort has a base of its own. Empty before rung 1 and without labels.
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
