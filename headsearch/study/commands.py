"""What the first process of a job tells the others to do, one after the other.

It alone decides: what Optuna and the pruner say, what is written and when it stops. The others hold
the same cohort, and do to it what it does to its own (`following.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headsearch.training.distributed import broadcast_object


@dataclass(frozen=True)
class SetUp:
    """A new cohort, without heads; the one before is gone."""

    seeds: tuple[int, ...]
    lr: float


@dataclass(frozen=True)
class Attach:
    """A head of the space, by the parameters of its trial."""

    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Leave:
    """A head is no longer trained."""

    name: str


@dataclass(frozen=True)
class Load:
    """The cohort goes on from a state, which follows."""


@dataclass(frozen=True)
class Steps:
    """Training steps under a seed, up to the next reading of losses."""

    seed: int
    window: range


@dataclass(frozen=True)
class Score:
    """A rung, under a seed."""

    seed: int


@dataclass(frozen=True)
class End:
    """Of the search; what it found lies in this directory."""

    run_directory: Path


@contextmanager
def leading(run_directory: Path) -> Iterator[None]:
    """The search in this block ends for all processes as it ends, or is closed, in this one.

    Where it fails the others are not told: they may be in the midst of a step. This process's end
    ends the job.
    """
    try:
        yield
    except GeneratorExit:
        broadcast_object(End(run_directory))
        raise
    broadcast_object(End(run_directory))
