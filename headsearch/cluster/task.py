"""The task that an engine runs in a fresh process: trains one cohort or one solo run.

It is a generator of messages, as JSON text. The first says that it has begun, and the last is one
of `done`, `failed`, `lost` and `refused`:

| kind | holds |
|---|---|
| begun | machine, host, pid; with several processes, `meeting`: address and port of the first |
| alive | nothing: the process works, but has no progress to report while it loads |
| step | step, steps |
| rung | rung, text |
| note | text |
| done | result |
| failed | reason: an error of the work itself |
| lost | reason: another process that trains the same cohort has ended |
| refused | reason: this machine cannot do the work, another one perhaps can |

With `--processes`, several processes train one cohort as a job of torchrun does. Each is such a
task. The first one is heard; of the others, only that they begin, and why they fail or refuse.

Imports little, so that it is heard at once.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from headsearch import torchrun
from headsearch.errors import UserError

LONGEST_BEAT_S = 5.0
"""The longest time in seconds between two signs of life while a task loads."""
BEATS = 4
"""The number of such signs within the grace."""
LAST = ("done", "failed", "lost", "refused")
"""The kinds of messages after which a task says nothing more."""
OTHERS_S = 3.0
"""Seconds in which a process that has ended can say why, before others say that it has."""
ERRORS = "error.txt"
"""The file in the folder of an attempt with the traceback of what ended it."""


class RefusedError(UserError):
    """This machine cannot do the work; another one perhaps can."""


class LostError(UserError):
    """Another process that trains the same cohort has ended."""


class StoppedError(Exception):
    """The task was told to stop before it had begun to train."""


class Work:
    """What a task does in a thread of its own, and what that says.

    The main thread of the process passes messages on. It has no message of its own once training
    has begun, so that a step that never ends is noticed as silence.

    Args:
        order: what the driver asked for.

    Attributes:
        said: the messages that wait to be passed on.
        training: whether training has begun, so that silence means something.
        on_stop: called when the task is to stop; a search or pretraining sets its flag.
    """

    def __init__(self, order: Mapping[str, Any]) -> None:
        self.order = order
        self.said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.training = False
        self.on_stop: Callable[[], object] = lambda: None
        self._stopped = threading.Event()

    def say(self, kind: str, **content: Any) -> None:
        """Says something to the driver."""
        self.said.put({"kind": kind, **content})

    def stop(self) -> None:
        """Asks the work to stop, with a snapshot."""
        self._stopped.set()
        self.on_stop()

    def stops_by(self, on_stop: Callable[[], object]) -> None:
        """From now on, `on_stop` stops the work.

        Raises:
            StoppedError: it is to stop already.
        """
        self.on_stop = on_stop
        if self._stopped.is_set():
            raise StoppedError

    def run(self) -> None:
        """Does the work, and says how it ended."""
        try:
            from headsearch.cluster.jobs import JOBS

            result = JOBS[self.order["job"]](self)
        except RefusedError as error:
            self.say("refused", reason=str(error))
        except LostError as error:
            time.sleep(OTHERS_S)
            self.say("lost", reason=str(error))
        except BaseException as error:  # nothing may end this thread without a last word
            self._note_traceback()
            lines = str(error).strip().splitlines() or [""]
            known = isinstance(error, UserError)
            reason = lines[0] if known else f"{type(error).__name__}: {lines[0]}"
            self.say("failed", reason=reason)
        else:
            if result is None:
                self.say("failed", reason="it was told to stop")
            else:
                self.say("done", result=result)

    def _note_traceback(self) -> None:
        with suppress(OSError):  # the driver is told in any case
            file = Path(self.order["folder"]) / ERRORS
            file.write_text(traceback.format_exc(), encoding="utf-8")


def perform(order: str, machine: str, address: str = "127.0.0.1") -> Iterator[str]:
    """Does what is ordered; yields messages.

    Args:
        order: the driver's order as JSON: `job`, `run`, `folder`, `grace` and what the job needs.
            With several `processes` also `rank` and, but for the first, `meeting`.
        machine: the engine's identifier of this machine.
        address: at which other machines reach this one.
    """
    asked = json.loads(order)
    work = Work(asked)
    begun: dict[str, Any] = {"machine": machine, "host": socket.gethostname(), "pid": os.getpid()}
    if "rank" in asked:
        begun["meeting"] = asked.get("meeting") or [address, _free_port(address)]
        torchrun.become(asked["rank"], asked["processes"], *begun["meeting"])
    yield json.dumps({"kind": "begun", **begun})
    thread = threading.Thread(target=work.run, daemon=True)
    thread.start()
    beat_s = min(LONGEST_BEAT_S, asked["grace"] / BEATS)
    try:
        while True:
            try:
                message = work.said.get(timeout=beat_s)
            except queue.Empty:
                if not work.training:
                    yield json.dumps({"kind": "alive"})
                continue
            yield json.dumps(message)
            if message["kind"] in LAST:
                return
    finally:  # also if the engine asks this process to stop, by an interrupt
        work.stop()
        thread.join()


def _free_port(address: str) -> int:
    with socket.socket() as taken:
        taken.bind((address, 0))
        return int(taken.getsockname()[1])
