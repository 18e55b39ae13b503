"""Which process of a job this is, by what `torchrun` tells its own. Light: it imports nothing."""

from __future__ import annotations

import os

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID")


def _started() -> bool:
    """Whether torchrun started this process; other tools set some of the variables as well."""
    return all(name in os.environ for name in _VARIABLES)


def count() -> int:
    """How many processes the job has; 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if _started() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return int(os.environ["RANK"]) if _started() else 0


def local_rank() -> int:
    """Which of those on this machine."""
    return int(os.environ["LOCAL_RANK"]) if _started() else 0


def first() -> bool:
    """Whether this is the one that decides, writes and prints."""
    return rank() == 0
