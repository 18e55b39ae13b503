"""Signals that stop: Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2.

While a run trains (`stops_heard`), the first one stops it after its step, with a snapshot, and a
second Ctrl-C interrupts it. Before and after that (`interrupts_raised`), when there is nothing to
save, each one interrupts at once. Imports little, because it is needed from the first moment.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

ALWAYS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and the signal that a cluster sends before it takes the machine away."""
UNLESS_TAKEN = tuple(
    getattr(signal, name) for name in ("SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)
"""A closed terminal, and what clusters send as an early warning (Slurm's `--signal`). Left alone if
ignored, as under `nohup`, or handled by the program that calls us."""
STOPPING = (*ALWAYS, *UNLESS_TAKEN)

WITH_PARENT = "HEADSEARCH_STOP_WITH_PARENT"
"""The environment variable that makes a command stop when its standard input is closed."""
AGAIN_S = 0.1
"""Seconds after which an interrupt that Python dropped is raised again."""

Acknowledge = Callable[[int], object]
"""Called with the number of a signal, in a thread of its own."""


class InterruptedAtOnceError(KeyboardInterrupt):
    """A run was interrupted at once: by a second Ctrl-C in the middle of a step, or while it was
    loaded.

    Attributes:
        run_directory: the run's directory, to be resumed.
        begun: whether the run has taken steps, so that there may be a snapshot of it.
        number: the signal.
    """

    def __init__(
        self, run_directory: Path, *, begun: bool = True, number: int = signal.SIGINT
    ) -> None:
        super().__init__(f"{run_directory} was interrupted")
        self.run_directory, self.begun, self.number = run_directory, begun, number


@contextmanager
def interrupted_while_loaded(run_directory: Path) -> Iterator[None]:
    """In this block a run is loaded whose directory exists: an interrupt names it."""
    try:
        yield
    except InterruptedAtOnceError:
        raise
    except KeyboardInterrupt as interrupt:
        number = next((n for n in interrupt.args if isinstance(n, int)), int(signal.SIGINT))
        raise InterruptedAtOnceError(run_directory, begun=False, number=number) from None


@dataclass
class Heard:
    """The last stop signal that was received; 0 for none."""

    number: int = 0


@contextmanager
def stops_heard(stop: threading.Event, acknowledge: Acknowledge | None = None) -> Iterator[Heard]:
    """In this block a stop signal sets `stop`; a second Ctrl-C raises KeyboardInterrupt.

    Args:
        stop: the event to set.
        acknowledge: called once, as soon as the first signal arrives.
    """
    heard = Heard()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and heard.number == signal.SIGINT:
            raise KeyboardInterrupt
        heard.number = number
        stop.set()

    with _signals_to(on_signal, acknowledge):
        yield heard


class TerminatedError(KeyboardInterrupt):
    """SIGTERM came where nothing is left to be finished."""


@contextmanager
def sigterm_raised() -> Iterator[None]:
    """In this block SIGTERM raises TerminatedError, so that what was begun can be undone.

    Not where it is handled already, as in a command (`interrupts_raised`).
    """

    def on_signal(number: int, frame: FrameType | None) -> None:
        raise TerminatedError(number)

    unhandled = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with _signals_to(on_signal, None, (signal.SIGTERM,) if unhandled else ()):
        yield


@contextmanager
def interrupts_raised(acknowledge: Acknowledge | None = None) -> Iterator[Heard]:
    """In this block every stop signal raises KeyboardInterrupt in the main thread.

    Python drops what is raised in a destructor, so such an interrupt is raised again a little
    later.

    Args:
        acknowledge: called once, as soon as the first signal arrives.
    """
    heard = Heard()
    hook_before = sys.unraisablehook

    def on_signal(number: int, frame: FrameType | None) -> None:
        heard.number = number
        raise KeyboardInterrupt(number)

    def on_dropped(dropped: Any) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            hook_before(dropped)
            return
        again = threading.Timer(AGAIN_S, os.kill, (os.getpid(), heard.number or signal.SIGINT))
        again.daemon = True
        again.start()

    sys.unraisablehook = on_dropped
    try:
        with _signals_to(on_signal, acknowledge):
            yield heard
    finally:
        sys.unraisablehook = hook_before


def stop_with_parent() -> None:
    """Stops this process as SIGTERM does once its standard input is closed, if it was asked to.

    A parent that starts it with a pipe as standard input and `WITH_PARENT` in its environment is so
    followed to its end, however it ends.
    """
    if os.environ.pop(WITH_PARENT, None) is None:
        return

    def watch() -> None:
        while os.read(0, 64):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _signals_to(
    on_signal: Callable[[int, FrameType | None], None],
    acknowledge: Acknowledge | None,
    numbers: Sequence[int] = STOPPING,
) -> Iterator[None]:
    """In this block a function handles these signals, which reach the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives signals
        return
    with _acknowledged(acknowledge):
        before: dict[int, Any] = {
            number: signal.signal(number, on_signal) for number in numbers if _is_ours(number)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _is_ours(number: int) -> bool:
    """Whether to handle a signal: none that is ignored or that another program handles."""
    handler = signal.getsignal(number)
    return (
        number in ALWAYS
        or handler is signal.SIG_DFL
        or getattr(handler, "__module__", None) == __name__
    )


@contextmanager
def _acknowledged(acknowledge: Acknowledge | None) -> Iterator[None]:
    """In this block the first stop signal is acknowledged by a thread.

    Python runs a handler only between two instructions of the main thread, which may be in a long
    call of PyTorch. The wakeup file descriptor is written to as soon as the signal arrives.
    """
    if acknowledge is None:
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def listen() -> None:
        heard = False
        while arrived := reader.recv(1):
            if not heard and arrived[0] in STOPPING:
                heard = True
                acknowledge(arrived[0])

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writer.close()
        listener.join(timeout=1)
        reader.close()
