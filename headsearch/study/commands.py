"""Commands that the first process of a job broadcasts to the others, one after the other.

The first process alone decides: it talks to Optuna, asks the pruner, writes the run directory and
stops. The others hold the same cohort and do the same to it (`followers.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class SetUp:
    """Set up a new cohort without heads, in place of the one before."""

    seeds: tuple[int, ...]
    lr: float


@dataclass(frozen=True)
class Attach:
    """Attach a head of the space, given by the parameters of its trial."""

    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Leave:
    """Detach a head."""

    name: str


@dataclass(frozen=True)
class Load:
    """Load a state, whose tensors are broadcast next."""


@dataclass(frozen=True)
class Steps:
    """Take training steps under a seed, then read losses."""

    seed: int
    window: range


@dataclass(frozen=True)
class Score:
    """Score the rung under a seed."""

    seed: int


@dataclass(frozen=True)
class End:
    """The search has ended; its results are in this directory."""

    run_directory: Path
