"""Simulated time for real code: processes that sleep, die, freeze, and share a database.

The code under test calls its storage as ever. Each call takes simulated time, in which every other
process goes on, so that calls of thousands of workers interleave as they would; a greenlet is what
lets a plain function be suspended in the midst of it.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

import greenlet
from optuna.exceptions import StorageInternalError
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

READ_ALL = "read of all trials"


class Process:
    """What lives, freezes and dies together: the threads of one simulated process."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.dead = False
        self.frozen_until = 0.0
        self._threads: list[greenlet.greenlet] = []

    def start(self, work: Callable[[], object]) -> greenlet.greenlet:
        """A thread that does this work."""
        thread = greenlet.greenlet(work, parent=self.world.hub)
        self._threads.append(thread)
        self.world.wake(self, thread, 0.0)
        return thread

    def die(self) -> None:
        """Ends at once, without a word."""
        self.dead = True
        for thread in self._threads:
            if thread and thread is not greenlet.getcurrent():
                thread.throw(greenlet.GreenletExit)


class World:
    """The clock, and what is to happen when.

    Attributes:
        now: seconds since the beginning.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.hub = greenlet.getcurrent()
        self._order = count()
        self._coming: list[tuple[float, int, Process | None, Any]] = []
        self._due: dict[greenlet.greenlet, int] = {}

    def __call__(self) -> float:
        """The clock, as the code under test reads it."""
        return self.now

    def later(self, seconds: float, event: Callable[[], object]) -> None:
        """Lets something happen that no process does."""
        heapq.heappush(self._coming, (self.now + seconds, next(self._order), None, event))

    def wake(self, process: Process, thread: greenlet.greenlet, seconds: float) -> None:
        """Lets a thread go on then, and not when it was going to."""
        number = next(self._order)
        self._due[thread] = number
        heapq.heappush(self._coming, (self.now + seconds, number, process, thread))

    def sleep(self, process: Process, seconds: float) -> None:
        """Suspends the thread that calls; others may wake it before its time."""
        self.wake(process, greenlet.getcurrent(), seconds)
        self.hub.switch()

    def run(self, until: Callable[[], bool]) -> None:
        """Goes on until that is so."""
        while self._coming and not until():
            at, number, process, what = heapq.heappop(self._coming)
            if process is None:
                self.now = at
                what()
                continue
            if process.dead or self._due.get(what) != number:
                continue
            self.now = at
            if process.frozen_until > at:
                self.wake(process, what, process.frozen_until - at)
                continue
            del self._due[what]
            what.switch()


class Database(InMemoryStorage):
    """Optuna's storage in memory, at the end of a network: calls take time, and may fail.

    Args:
        world: whose time they take.
        latency: seconds of a call, half before and half after the database has carried it out.

    Attributes:
        calls: how many there were, by kind.
        rows: trials that reads would have brought over the network, with Optuna's own cache of
            finished trials in every process: those that were unfinished.
        by_minute: calls in each minute.
        process: whose thread calls; None for what takes no time.
    """

    def __init__(self, world: World, latency: float) -> None:
        super().__init__()
        self._world, self._latency = world, latency
        self.calls: Counter[str] = Counter()
        self.rows = 0
        self.by_minute: Counter[int] = Counter()
        self.rows_by_minute: Counter[int] = Counter()
        self.away_until = -1.0
        self._unfinished = 0

    def leave(self, seconds: float) -> None:
        """Is out of reach for so long."""
        self.away_until = self._world.now + seconds

    def count(self, kind: str, times: int) -> None:
        """Counts calls, of readers what they read too."""
        minute = int(self._world.now // 60)
        self.calls[kind] += times
        self.by_minute[minute] += times
        if kind == READ_ALL:
            self.rows += times * self._unfinished
            self.rows_by_minute[minute] += times * self._unfinished

    def _called(self, kind: str, call: Callable[[], Any]) -> Any:
        process = getattr(greenlet.getcurrent(), "process", None)
        if process is None:
            return call()
        self.count(kind, 1)
        for part in ("there", "and back"):
            self._world.sleep(process, self._latency / 2)
            if self._world.now < self.away_until:  # on the way back, the answer alone is lost
                raise StorageInternalError(f"simulated: out of reach, {part}")
            if part == "there":
                found = self._carried_out(call)
        if isinstance(found, Exception):
            raise found
        return found

    def _carried_out(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # an answer like any other
            return error

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Iterable[TrialState] | None = None
    ) -> Any:
        read = super().get_all_trials
        return self._called(READ_ALL, lambda: read(study_id, deepcopy, states))

    def get_trial(self, trial_id: int) -> Any:
        read = super().get_trial
        return self._called("read of one trial", lambda: read(trial_id))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        write = super().set_trial_user_attr
        kind = "beat" if key == "beat" else "attribute"
        self._called(kind, lambda: write(trial_id, key, value))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Any = None) -> Any:
        write = super().set_trial_state_values

        def change() -> Any:
            changed = write(trial_id, state, values)
            self._unfinished -= state.is_finished()
            return changed

        return self._called("change of state", change)

    def create_new_trial(self, study_id: int, template_trial: Any = None) -> Any:
        make = super().create_new_trial

        def created() -> Any:
            self._unfinished += 1
            return make(study_id, template_trial)

        return self._called("new trial", created)


def exponential(dice: random.Random, mean: float) -> float:
    """Seconds to the next of events that come at random, this far apart."""
    return dice.expovariate(1 / mean) if mean < float("inf") else float("inf")
