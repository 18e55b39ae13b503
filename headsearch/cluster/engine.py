"""What the driver needs of an engine: to start a task, to hear from it, to cancel it.

An engine decides where and when a task runs. It repeats nothing: that is the driver's part.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from headsearch.errors import UserError


class EngineGoneError(UserError):
    """The engine itself is gone."""


Message: TypeAlias = Mapping[str, Any]
"""What driver and task tell each other, as JSON data; `kind` says which message it is."""


@dataclass(frozen=True)
class Heard:
    """A task said something (`task.py` lists what)."""

    task: int
    message: Message


@dataclass(frozen=True)
class Ended:
    """A task has ended and says nothing more.

    Attributes:
        task: its number.
        reason: why, if its process or machine was lost, or it was cancelled; None if it returned.
    """

    task: int
    reason: str | None = None


News: TypeAlias = Heard | Ended


class Engine(Protocol):
    """Runs tasks, each in a fresh process on one of its machines."""

    def start(self, order: Message, avoid: Collection[str] = ()) -> int:
        """Starts a task as soon as a machine is free; returns the task's number.

        Args:
            order: what the task is to do.
            avoid: machines that it must not run on.
        """
        ...

    def news(self, seconds: float) -> Sequence[News]:
        """What has happened since the last call; waits up to `seconds` for something.

        Raises:
            EngineGoneError: the engine itself is gone.
        """
        ...

    def cancel(self, task: int, *, force: bool) -> None:
        """Asks a task to stop, or with `force` ends its process at once, even if it is frozen."""
        ...

    def machines(self) -> Mapping[str, str]:
        """The names of the machines that are alive, by their identifier."""
        ...
