"""Observers of a run: functions that are called with each event, as Optuna calls its callbacks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

E = TypeVar("E")


class Observers(Generic[E]):
    """The observers of one run.

    An error in an observer must not cost the step that the run has just taken. So it stops the run
    as a signal does, and is raised once the run has ended with its snapshot.

    Args:
        observers: called in this order.
        stop: set where one of them raises.
    """

    def __init__(self, observers: Sequence[Callable[[E], None]], stop: threading.Event) -> None:
        self._observers, self._stop = observers, stop
        self._error: Exception | None = None

    def notify(self, event: E) -> None:
        """Calls the observers with an event."""
        try:
            for observe in self._observers:
                observe(event)
        except Exception as error:
            self._error = error
            self._stop.set()

    def raise_error(self) -> None:
        """Raises what an observer raised, if one did. Call it where the run has ended."""
        if self._error is not None:
            raise self._error
