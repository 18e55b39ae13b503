"""Observers of a run: functions that are called with each event, as Optuna calls its callbacks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

E = TypeVar("E")


class Observers(Generic[E]):
    """The observers of one run.

    An error in an observer must not lose the steps that the run has taken. It therefore stops the
    run as a signal does, and is raised once the run has written its snapshot.

    Args:
        observers: functions that are called with each event, in this order.
        stop: the run's stop flag, which is set if an observer raises an error.
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
        """Raises the last error of an observer, if any. Call it after the run has ended."""
        if self._error is not None:
            raise self._error
