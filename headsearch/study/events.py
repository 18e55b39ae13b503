"""The events that a search reports to its observers: steps taken, a rung scored, a note."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from headsearch.evaluation.rung import ScoringProgress
from headsearch.evaluation.scores import RungScores
from headsearch.runs.throughput import Throughput
from headsearch.study.leaderboard import Leaderboard


@dataclass(frozen=True)
class Advanced:
    """A cohort took some training steps; the leaderboard holds the new losses.

    Attributes:
        cohort: the index of the cohort.
        step: the number of steps that the cohort has taken, summed over seeds.
        throughput: speed and remaining time of the search.
        leaderboard: all candidates of the search.
        base_loss: the base's loss since the last read, averaged over seeds; NaN before the first.
        read: whether losses were read at this step. False if the search stops before a read.
    """

    cohort: int
    step: int
    throughput: Throughput
    leaderboard: Leaderboard
    base_loss: float
    read: bool


@dataclass(frozen=True)
class Scoring:
    """A rung is being scored. Not an event: nothing has changed yet.

    Attributes:
        cohort: the index of the cohort.
        rung: the rung.
        progress: how much of it is scored.
        leaderboard: all candidates of the search, without the scores of this rung.
    """

    cohort: int
    rung: int
    progress: ScoringProgress
    leaderboard: Leaderboard


@dataclass(frozen=True)
class Scored:
    """A rung was scored, the pruner has decided, and the tables are written.

    Attributes:
        cohort: the index of the cohort.
        rung: the rung.
        step: the number of steps that each seed has taken.
        scores: scores of base and heads, averaged over seeds.
        throughput: speed and remaining time of the search.
        leaderboard: all candidates of the search.
    """

    cohort: int
    rung: int
    step: int
    scores: RungScores
    throughput: Throughput
    leaderboard: Leaderboard


@dataclass(frozen=True)
class Noted:
    """The search lowered the learning rate, split a cohort, set heads aside or ends early.

    The report of the run says so too.

    Attributes:
        text: what happened, in a sentence for the user.
    """

    text: str


Event: TypeAlias = Advanced | Scored | Noted
