"""Simulated time, processes and database, in which real code of a worker runs.

The code under test calls its storage as usual. Each call takes simulated time, in which all other
processes run, so that the calls of thousands of workers interleave as they would in reality.
Processes run in greenlets, because a greenlet can suspend a plain function in the middle of a call.
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
    """A simulated process: threads that freeze and die together.

    Args:
        world: the simulation that it is part of.

    Attributes:
        dead: whether it has ended.
        frozen_until: simulated time before which none of its threads runs.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.dead = False
        self.frozen_until = 0.0
        self._threads: list[greenlet.greenlet] = []

    def start(self, work: Callable[[], object]) -> greenlet.greenlet:
        """Starts a thread that calls `work`."""
        thread = greenlet.greenlet(work, parent=self.world.hub)
        self._threads.append(thread)
        self.world.wake(self, thread, 0.0)
        return thread

    def die(self) -> None:
        """Ends all threads at once, as SIGKILL does."""
        self.dead = True
        for thread in self._threads:
            if thread and thread is not greenlet.getcurrent():
                thread.throw(greenlet.GreenletExit)


class World:
    """The simulated clock and its queue of events.

    Attributes:
        now: seconds since the start of the simulation.
        hub: the greenlet that runs the events, and starts all threads.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.hub = greenlet.getcurrent()
        self._numbers = count()
        # Time, number, process (None for an event outside of any) and what happens. Numbers keep
        # events of one time in the order in which they were made.
        self._events: list[tuple[float, int, Process | None, Any]] = []
        # The number of the event that wakes each thread: earlier ones for the same thread are void.
        self._wakes: dict[greenlet.greenlet, int] = {}

    def __call__(self) -> float:
        """The time, as the code under test reads it from a clock."""
        return self.now

    def later(self, seconds: float, event: Callable[[], object]) -> None:
        """Calls `event` after some seconds, outside of any process."""
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), None, event))

    def wake(self, process: Process, thread: greenlet.greenlet, seconds: float) -> None:
        """Continues a thread after some seconds, in place of when it would have continued."""
        number = next(self._numbers)
        self._wakes[thread] = number
        heapq.heappush(self._events, (self.now + seconds, number, process, thread))

    def sleep(self, process: Process, seconds: float) -> None:
        """Suspends the calling thread; others may wake it earlier."""
        self.wake(process, greenlet.getcurrent(), seconds)
        self.hub.switch()

    def run(self, until: Callable[[], bool]) -> None:
        """Runs events in the order of their times, until `until()` is true or none are left."""
        while self._events and not until():
            at, number, process, event = heapq.heappop(self._events)
            if process is None:
                self.now = at
                event()
                continue
            thread = event
            if process.dead or self._wakes.get(thread) != number:
                continue
            self.now = at
            if process.frozen_until > at:
                self.wake(process, thread, process.frozen_until - at)
                continue
            del self._wakes[thread]
            thread.switch()


class Database(InMemoryStorage):
    """Optuna's in-memory storage behind a simulated network: calls take time, and may fail.

    Calls from outside of a simulated process take no time, do not fail and are not counted.

    Args:
        world: the simulation whose time calls take.
        latency: seconds of a call, half before and half after the database carries it out.

    Attributes:
        calls: number of calls, by kind.
        rows: trials that reads transfer over the network. Optuna caches finished trials in every
            process, so that only unfinished ones count.
        by_minute: calls in each minute.
        rows_by_minute: rows in each minute.
        away_until: simulated time until which the database is out of reach.
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
        """Puts the database out of reach for some seconds."""
        self.away_until = self._world.now + seconds

    def count(self, kind: str, times: int) -> None:
        """Counts calls, and the rows of those that read."""
        minute = int(self._world.now // 60)
        self.calls[kind] += times
        self.by_minute[minute] += times
        if kind == READ_ALL:
            self.rows += times * self._unfinished
            self.rows_by_minute[minute] += times * self._unfinished

    def _called(self, kind: str, call: Callable[[], Any]) -> Any:
        """Carries out a call: counts it, takes its time, and raises if the database is away."""
        process = getattr(greenlet.getcurrent(), "process", None)
        if process is None:
            return call()
        self.count(kind, 1)
        self._transmit(process, "request")
        answer = self._answer(call)
        self._transmit(process, "answer")  # lost here, what the call did stands all the same
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _transmit(self, process: Process, message: str) -> None:
        self._world.sleep(process, self._latency / 2)
        if self._world.now < self.away_until:
            raise StorageInternalError(f"simulated: the {message} was lost")

    def _answer(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # the database's answer, which takes its way back too
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


def exponential(rng: random.Random, mean: float) -> float:
    """Seconds until the next of random events that are `mean` seconds apart on average."""
    return rng.expovariate(1 / mean) if mean < float("inf") else float("inf")
