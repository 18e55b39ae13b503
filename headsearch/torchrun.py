"""Rank and number of processes of a `torchrun` job, from the environment. Imports nothing heavy."""

from __future__ import annotations

import os

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID")


def _started() -> bool:
    """Whether torchrun started this process; other tools set some of these variables too."""
    return all(name in os.environ for name in _VARIABLES)


def count() -> int:
    """The number of processes of the job; 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if _started() else 1


def rank() -> int:
    """The rank of this process, from 0."""
    return int(os.environ["RANK"]) if _started() else 0


def local_rank() -> int:
    """The rank of this process among those on this machine."""
    return int(os.environ["LOCAL_RANK"]) if _started() else 0


def become(rank: int, processes: int, address: str, port: int) -> None:
    """Makes this process part of a job, as if torchrun had started it on a machine with one GPU.

    Args:
        rank: the rank of this process.
        processes: the number of processes of the job.
        address: of the machine of the first process.
        port: at which the first process listens.
    """
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_RANK": "0",
        "MASTER_ADDR": address, "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "engine",
    }  # fmt: skip


def first() -> bool:
    """Whether this is the process that decides, writes and prints (rank 0)."""
    return rank() == 0
