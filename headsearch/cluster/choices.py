"""What a user chooses about an engine: `--engine`, `--grace`, … Imports little."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from headsearch import torchrun
from headsearch.errors import UserError

LOCAL, AUTO, REMOTE = "local", "auto", "ray://"
"""The forms of `--engine`: this machine alone, the cluster that this machine is part of, and a
cluster by the address of its head."""
GRACE_S = 120.0
"""Seconds without a sign of life after which an attempt counts as lost, unless others are given."""
GENERATION = 8
"""Cohorts between which a sampler that learns does not learn, unless another number is given."""
LEAST_GRACE_S = 2.0


@dataclass(frozen=True)
class EngineChoices:
    """What the user chose about an engine.

    Attributes:
        engine: local, auto or ray://HOST:PORT.
        grace: seconds without a sign of life after which an attempt counts as lost.
        generation: cohorts between which a sampler that learns does not learn.
        processes: the processes that train each cohort; each takes a GPU (or cores) of its own.

    Raises:
        UserError: a choice cannot be used here.
    """

    engine: str
    grace: float = GRACE_S
    generation: int = GENERATION
    processes: int = 1

    def __post_init__(self) -> None:
        check_engine(self.engine)
        if torchrun.count() > 1:
            raise UserError("--engine starts processes of its own: leave torchrun out")
        if not self.grace >= LEAST_GRACE_S:
            raise UserError(f"--grace {self.grace:g} must be {LEAST_GRACE_S:g} seconds or more")


def check_engine(spec: str) -> None:
    """Checks the value of `--engine`.

    Raises:
        UserError: it has no known form, or Ray is not installed.
    """
    host, _, port = spec.removeprefix(REMOTE).rpartition(":")
    address = spec.startswith(REMOTE) and bool(host) and port.isdecimal()
    if spec not in (LOCAL, AUTO) and not address:
        raise UserError(
            f"--engine must be {LOCAL} (this machine), {AUTO} (the Ray cluster that this machine "
            f"is part of) or {REMOTE}HOST:PORT, but is {spec!r}"
        )
    if importlib.util.find_spec("ray") is None:
        raise UserError("--engine needs Ray: pip install 'headsearch[ray]'")
