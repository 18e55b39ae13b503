"""What a search reports as it goes: steps done, a rung scored, something to tell the user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from headsearch.evaluation.scores import RungScores
from headsearch.runs.throughput import Throughput
from headsearch.study.leaderboard import Leaderboard


@dataclass(frozen=True)
class Advanced:
    """Some steps of a cohort were done; the ledger holds the new losses.

    Attributes:
        step: steps of the cohort, under all seeds together.
        base_loss: of late, the mean over seeds; NaN before there is one.
        read: whether this step brought new losses; not where training was told to stop at it.
    """

    cohort: int
    step: int
    throughput: Throughput
    leaderboard: Leaderboard
    base_loss: float
    read: bool


@dataclass(frozen=True)
class Scored:
    """A rung was scored and the pruner has decided; the tables are written."""

    cohort: int
    rung: int
    step: int
    scores: RungScores
    throughput: Throughput
    leaderboard: Leaderboard


@dataclass(frozen=True)
class Noted:
    """Something befell the search that whoever watches should know; the report tells it too."""

    text: str


Event: TypeAlias = Advanced | Scored | Noted
