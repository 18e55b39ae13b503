"""One session of a run: signal handling, observers, and the console that shows progress.

Searches, pretrainings and verifications all run through `carry_out`, on the command line and in
Python.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from signal import Signals
from typing import Protocol, TypeVar

import optuna
from rich.console import Console

from headsearch.runs.console import HarmlessConsole, print_notes, say
from headsearch.runs.signals import InterruptedAtOnceError, stops_heard

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


STOPPING_TRAINING = (
    "stopping after this step, or once the heads are scored at a rung, with a snapshot; "
    "Ctrl-C again stops at once"
)


def carry_out(
    running: Running[E],
    *observers: AbstractContextManager[Callable[[E], None]],
    console: Console | None = None,
    stopping: str = STOPPING_TRAINING,
) -> int:
    """Runs to the end, or until a stop signal (`signals.py`) stops the run after the current step.

    Args:
        running: the search, pretraining or verification.
        observers: context managers that give observers of its events. They are open while it runs.
        console: where the signal is acknowledged as soon as it arrives; None does not.
        stopping: in which words.

    Returns:
        The number of the signal that stopped it; 0 if it ended.

    Raises:
        InterruptedAtOnceError: Ctrl-C was pressed a second time.
    """

    def acknowledge(number: int) -> None:
        if console is not None:
            say(console, f"{Signals(number).name}: {stopping}")

    with ExitStack() as stack:
        opened = [stack.enter_context(observer) for observer in observers]
        heard = stack.enter_context(stops_heard(running.stop, acknowledge))
        try:
            running.run(*opened)
        except KeyboardInterrupt:
            raise InterruptedAtOnceError(running.run_directory) from None
    return 0 if running.complete else heard.number


def take_part(follow: Callable[[], R]) -> R:
    """Calls `follow` in a process that is not the first one of its job, ignoring stop signals.

    A signal reaches all processes of a job. The first one decides when to stop, and the others must
    keep following it until then.
    """
    with stops_heard(threading.Event()):
        return follow()


def introduce(console: Console | None, notes: tuple[str, ...], run_directory: Path) -> None:
    """Prints the notes of a run and its directory, unless the console is None."""
    if console is not None:
        print_notes(console, notes)
        console.print(f"run directory: {run_directory}", soft_wrap=True)


def console_for(progress: bool | None) -> Console | None:
    """The console that shows progress to a Python caller, or None to show none.

    Args:
        progress: whether to show it; by default only in a terminal or a notebook.
    """
    console = HarmlessConsole(highlight=False, markup=False)
    shown = console.is_terminal or console.is_jupyter if progress is None else progress
    return console if shown else None


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Within this block, Optuna does not log every trial."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
