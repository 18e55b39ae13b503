"""The commands that the first process of a distributed job broadcasts to the other processes.

Only the first process makes decisions: it talks to Optuna, asks the pruner, writes the run
directory and handles signals. The other processes hold a copy of the cohort and carry out the
commands on it (`followers.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class SetUp:
    """Set up a new cohort without heads. It replaces the current one."""

    seeds: tuple[int, ...]
    lr: float


@dataclass(frozen=True)
class Attach:
    """Attach the head of the search space that has these trial parameters."""

    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Leave:
    """Detach a head."""

    name: str


@dataclass(frozen=True)
class Load:
    """Load a state. The tensors are broadcast right after this command."""


@dataclass(frozen=True)
class Steps:
    """Take the training steps of a window with one seed, then read the losses."""

    seed: int
    window: range


@dataclass(frozen=True)
class Score:
    """Score base and heads with one seed."""

    seed: int


@dataclass(frozen=True)
class Absorb:
    """Measure the absorption of every head with one seed (`training/absorption.py`)."""

    seed: int
    step: int
    batches: int


@dataclass(frozen=True)
class End:
    """The search has ended. Its results are in this directory."""

    run_directory: Path
