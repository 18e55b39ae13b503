"""One session of a run: shown where somebody looks, stopped by signals, its curves written.

Searches, pretrainings and verifications are carried out here, for the command line and for Python
alike.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import optuna
from rich.console import Console

from headsearch.report.console import HarmlessConsole, print_notes
from headsearch.runs.signals import stops_heard

E = TypeVar("E")
E_co = TypeVar("E_co", covariant=True)


class Running(Protocol[E_co]):
    """A search, a pretraining or a verification, ready to run."""

    @property
    def run_directory(self) -> Path: ...

    @property
    def stop(self) -> threading.Event: ...

    @property
    def complete(self) -> bool: ...

    def run(self, *observers: Callable[[E_co], None]) -> None: ...


R = TypeVar("R")


class InterruptedAtOnceError(KeyboardInterrupt):
    """A second Ctrl-C: the run ended where it was, with the last snapshot that was written.

    Attributes:
        run_directory: what it can be resumed from.
    """

    def __init__(self, run_directory: Path) -> None:
        super().__init__(f"{run_directory} was interrupted")
        self.run_directory = run_directory


def carry_out(running: Running[E], *observers: AbstractContextManager[Callable[[E], None]]) -> int:
    """Runs to the end, or to where Ctrl-C or SIGTERM stops it after the step under way.

    Args:
        running: what is carried out.
        observers: what watches it; each is open for as long as it runs.

    Returns:
        The number of the signal that stopped it; 0 where it came to its end.

    Raises:
        InterruptedAtOnceError: at a second Ctrl-C.
    """
    with ExitStack() as stack:
        watching = [stack.enter_context(observer) for observer in observers]
        heard = stack.enter_context(stops_heard(running.stop))
        try:
            running.run(*watching)
        except KeyboardInterrupt:
            raise InterruptedAtOnceError(running.run_directory) from None
    return 0 if running.complete else heard.number


def take_part(follow: Callable[[], R]) -> R:
    """Takes part in what the first process of a job does, in one of the others.

    Signals reach all processes. The first one decides when to stop; the others wait for it.
    """
    with stops_heard(threading.Event()):
        return follow()


def introduce(console: Console | None, notes: tuple[str, ...], run_directory: Path) -> None:
    """Shows what was decided, and where the run writes."""
    if console is not None:
        print_notes(console, notes)
        console.print(f"run directory: {run_directory}", soft_wrap=True)


def console_for(progress: bool | None) -> Console | None:
    """The console of a Python caller: None where progress is not to be shown.

    Args:
        progress: whether it is; by default in a terminal or a notebook.
    """
    console = HarmlessConsole(highlight=False, markup=False)
    shown = console.is_terminal or console.is_jupyter if progress is None else progress
    return console if shown else None


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keeps Optuna from logging every trial on its own within this block."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
