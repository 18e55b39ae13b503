"""Ctrl-C and SIGTERM: the first stops a run after its step, a second Ctrl-C interrupts it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and the signal that a cluster sends before it takes the machine away."""


@dataclass
class Heard:
    """The last stop signal that was received; 0 for none."""

    number: int = 0


@contextmanager
def stops_heard(stop: threading.Event) -> Iterator[Heard]:
    """In this block Ctrl-C and SIGTERM set `stop`; a second Ctrl-C raises KeyboardInterrupt."""
    heard = Heard()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and heard.number == signal.SIGINT:
            raise KeyboardInterrupt
        heard.number = number
        stop.set()

    with _signals_to(on_signal, STOPPING):
        yield heard


class TerminatedError(KeyboardInterrupt):
    """SIGTERM came where nothing is left to be finished."""


@contextmanager
def sigterm_raised() -> Iterator[None]:
    """In this block SIGTERM raises TerminatedError, so that what was begun can be undone."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        raise TerminatedError

    with _signals_to(on_signal, (signal.SIGTERM,)):
        yield


@contextmanager
def _signals_to(
    on_signal: Callable[[int, FrameType | None], None], numbers: Sequence[signal.Signals]
) -> Iterator[None]:
    """In this block a function handles these signals, which reach the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives signals
        return
    before: dict[int, Any] = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
