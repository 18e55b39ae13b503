"""A queue of tasks that any number of machines work at, held in an Optuna storage.

A task has a key. Each attempt at it is a trial of the study `NAME.tasks`: WAITING until a worker
claims it, RUNNING while it works, COMPLETE with its result, FAIL where it was given up. The storage
makes a claim one worker's alone (WAITING → RUNNING happens once), and of all results those of
COMPLETE trials count, of a key the lowest-numbered: becoming COMPLETE is the one atomic moment.

Workers die without a word. So each counts up a beat in its trial, and whoever looks (`Tasks.look`)
and sees a beat stand still for the grace time of its own clock takes the task back: no clocks are
compared between machines. What can go wrong, and what becomes of it:

- Two see the same worker dead: only one can end its trial; should both queue the task again, the
  second of the two trials is superfluous, and ended by whoever claims it.
- One ends a trial, and dies before it queues the task again: the next to look does.
- The worker was not dead: at its next beat or at its end it finds its trial ended
  (`TakenOverError`), and its result is thrown away.
- The storage was away, or the observer asleep: time in which it did not look counts for no more
  than half the grace, so that all workers have the time to beat again.

Nothing here sleeps, reads a clock that is not handed in, or knows what a task is about.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from headsearch.cluster.engine.chunked_attributes import pieces, whole

SUFFIX = ".tasks"
RESULT, PAYLOAD = "result", "payload"
GONE = "gone"
"""Why a trial has failed: the attribute that says so."""
COUNTS = "counts"
"""Whether a failed trial counts as an attempt: a worker that gives its task back has not failed."""
SINCE = "since"
"""The first trial of the study whose failure counts: those before it are forgiven."""
SUPERFLUOUS = "queued twice"


@dataclass(frozen=True)
class Rules:
    """How patient a queue is.

    Attributes:
        heartbeat: seconds between a worker's beats.
        grace: seconds without one after which it counts as dead; three heartbeats or more, so
            that one late beat costs no work.
        attempts: how often a task may fail, or its worker die, until it counts as lost.
    """

    heartbeat: float = 20.0
    grace: float = 120.0
    attempts: int = 5

    def __post_init__(self) -> None:
        if self.heartbeat <= 0 or self.grace < 3 * self.heartbeat or self.attempts < 1:
            raise ValueError(
                "grace must be three heartbeats or more, and attempts 1 or more, but got "
                f"{self.heartbeat=}, {self.grace=}, {self.attempts=}."
            )


@dataclass(frozen=True)
class Task:
    """Something to be done once.

    Attributes:
        key: its name: one task a key.
        kind: what workers decide by what to do.
        payload: what they need to do it, as JSON can hold it.
    """

    key: str
    kind: str
    payload: Any = None


class TakenOverError(Exception):
    """The worker was presumed dead: somebody else has the task, and a result is not wanted."""


@dataclass(frozen=True)
class Standing:
    """How a task stands.

    Attributes:
        task: which, without its payload.
        state: `waiting`, `running`, `done` or `lost`.
        worker: who works at it or did it; empty where nobody does.
        attempt: the how manieth, from 1.
        silent: seconds for which this observer has seen the beat stand still; None where it has
            not looked twice, or nobody works at it.
        beat_at: when its worker last beat, by the worker's own wall clock: to be shown, and not
            relied on.
        seconds: how long a task that is done took its worker.
        reason: of the latest failure, empty without any.
    """

    task: Task
    state: str
    worker: str
    attempt: int
    silent: float | None
    beat_at: float | None
    seconds: float | None
    reason: str


@dataclass
class _Seen:
    """What an observer has seen of a beat."""

    beat: int
    at: float
    still: float = 0.0


@dataclass
class Claim:
    """A task in a worker's hands. Its methods may be called from any thread.

    Attributes:
        task: which.
        attempt: the how manieth, from 1.
        worker: whose.
        token: of this claim and no other.
    """

    task: Task
    attempt: int
    worker: str
    _tasks: Tasks = field(repr=False)
    _trial: int = field(repr=False)
    token: str = field(repr=False)
    _beat: int = field(default=0, repr=False)

    def beat(self) -> None:
        """Says that the worker lives.

        Raises:
            TakenOverError: it counts as dead already.
        """
        self._beat += 1
        self._set("beat", [self._beat, self._tasks.wall()])

    def commit(self, result: Any) -> None:
        """Ends the task with its result, which JSON can hold.

        Raises:
            TakenOverError: the worker counts as dead already; the result is thrown away.
        """
        try:
            for name, piece in pieces(RESULT, result):
                self._tasks.storage.set_trial_user_attr(self._trial, name, piece)
            self._tasks.storage.set_trial_state_values(
                self._trial, TrialState.COMPLETE, [float(self.attempt)]
            )
        except UpdateFinishedTrialError:
            trial = self._tasks.storage.get_trial(self._trial)
            ours = trial.user_attrs.get("claim") == self.token
            if trial.state == TrialState.COMPLETE and ours:
                return  # said before, to a storage whose answer was lost
            raise self._taken_over(trial) from None

    def release(self, reason: str) -> None:
        """Gives the task back, for others to begin it anew; no attempt is counted.

        Raises:
            TakenOverError: the worker counts as dead already.
        """
        self._give_up(reason, counts=False)

    def fail(self, reason: str) -> None:
        """Gives the task up: others try it again, as often as the rules say.

        Raises:
            TakenOverError: the worker counts as dead already.
        """
        self._give_up(reason, counts=True)

    def _give_up(self, reason: str, *, counts: bool) -> None:
        if not self._tasks.end(self._trial, reason, counts=counts):
            raise self._taken_over(self._tasks.storage.get_trial(self._trial))
        self._tasks.queue_again(self._tasks.trials_of({self.task.key}))

    def _set(self, name: str, value: Any) -> None:
        try:
            self._tasks.storage.set_trial_user_attr(self._trial, name, value)
        except UpdateFinishedTrialError:
            raise self._taken_over(self._tasks.storage.get_trial(self._trial)) from None

    def _taken_over(self, trial: FrozenTrial) -> TakenOverError:
        why = trial.user_attrs.get(GONE, "it was ended elsewhere")
        return TakenOverError(f"{self.task.key} was taken from {self.worker}: {why}")


class Tasks:
    """The tasks of a study, as one worker or observer sees them.

    Args:
        storage: where the study is.
        name: of the study that the tasks belong to.
        clock: seconds that never go back, of this observer.
        wall: the time of day, in seconds since the epoch, for others to show.
        seed: decides whom a worker gives way to where many claim at once.

    Attributes:
        rules: how patient the queue is.

    Raises:
        KeyError: the study has no tasks.
    """

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        seed: int | None = None,
    ) -> None:
        self.storage, self.wall = storage, wall
        self._study = storage.get_study_id_from_name(name + SUFFIX)
        self.rules = Rules(**storage.get_study_user_attrs(self._study)["rules"])
        self._clock, self._dice = clock, random.Random(seed)
        self._seen: dict[int, _Seen] = {}
        # Trials that have ended: their numbers, keys with a result, failures of those without.
        self._ended: set[int] = set()
        self._done: set[str] = set()
        self._failed: defaultdict[str, list[FrozenTrial]] = defaultdict(list)

    @classmethod
    def create(
        cls,
        storage: BaseStorage,
        name: str,
        tasks: Iterable[Task],
        rules: Rules | None = None,
        **how: Any,
    ) -> Tasks:
        """Makes a queue with these tasks.

        Args:
            rules: how patient it is.
            how: further arguments of `Tasks`.

        Raises:
            DuplicatedStudyError: there is one of this name.
        """
        study = storage.create_new_study([StudyDirection.MINIMIZE], name + SUFFIX)
        storage.set_study_user_attr(study, "rules", vars(rules or Rules()))
        made = cls(storage, name, **how)
        made.add(tasks)
        return made

    def add(self, tasks: Iterable[Task]) -> int:
        """Queues tasks, but those whose key is known; how many were queued.

        A task that counts as lost is queued again, with all its attempts before it.
        """
        by_key = self._by_key(self._read())
        new = 0
        for task in tasks:
            trials = by_key.get(task.key, [])
            if trials and not self._lost(trials):
                continue
            since = trials[-1].number + 1 if trials else 0
            about = {"key": task.key, "kind": task.kind, SINCE: since}
            self._queue({**about, **dict(pieces(PAYLOAD, task.payload))})
            new += 1
        return new

    def claim(self, worker: str) -> Claim | None:
        """The first task that waits, for this worker alone; None where none waits.

        Where another is faster, one further back is tried, ever further: many workers that start
        at once would else queue up at each task in turn.
        """
        waiting = self._read((TrialState.WAITING,))
        reach = 1
        while waiting:
            trial = waiting.pop(self._dice.randrange(min(reach, len(waiting))))
            claim = self._try(trial, worker)
            if claim is not None:
                return claim
            reach *= 2
            if not waiting:
                waiting = self._read((TrialState.WAITING,))
        return None

    def _try(self, trial: FrozenTrial, worker: str) -> Claim | None:
        number, known = trial._trial_id, trial.user_attrs
        try:
            if not self.storage.set_trial_state_values(number, TrialState.RUNNING):
                return None
        except UpdateFinishedTrialError:
            return None
        token = uuid4().hex
        try:
            self.storage.set_trial_user_attr(number, "worker", worker)
            self.storage.set_trial_user_attr(number, "claim", token)
        except UpdateFinishedTrialError:  # it took longer than the grace
            return None
        same = [other for other in self._read() if other.user_attrs["key"] == known["key"]]
        before = [other for other in same if other.number < trial.number]
        if any(other.state != TrialState.FAIL for other in before):
            self.end(number, SUPERFLUOUS, counts=False)
            return None
        task = Task(known["key"], known["kind"], whole(PAYLOAD, known))
        return Claim(task, 1 + self._failures([*before, trial]), worker, self, number, token)

    # observing

    def look(self) -> list[str]:
        """Takes back what dead workers hold, and queues what nobody has queued again.

        To be called now and then, a few times within the grace.

        Returns:
            What was done, a line each.
        """
        running, active = self._under_way()
        self._observe(running)
        news = []
        for trial in running:
            seen = self._seen.get(trial._trial_id)
            if seen is None or seen.still < self.rules.grace:
                continue
            key, worker = trial.user_attrs["key"], trial.user_attrs.get("worker", "its worker")
            if self.end(trial._trial_id, f"{worker} fell silent", counts=True):
                news.append(f"{worker} fell silent for {seen.still:.0f} s: {key} is taken back")
        if news:
            _, active = self._under_way()
        return news + self.queue_again(self._left_alone(active))

    def _observe(self, trials: Iterable[FrozenTrial]) -> None:
        """Notes which beats have moved since the last look, and for how long others have not."""
        now, seen = self._clock(), self._seen
        self._seen = {}
        for trial in trials:
            if trial.state != TrialState.RUNNING:
                continue
            beat, before = trial.user_attrs.get("beat", [0])[0], seen.get(trial._trial_id)
            if before is None or before.beat != beat:
                self._seen[trial._trial_id] = _Seen(beat, now)
            else:
                apart = min(now - before.at, self.rules.grace / 2)
                self._seen[trial._trial_id] = _Seen(beat, now, before.still + apart)

    def _under_way(self) -> tuple[list[FrozenTrial], set[str]]:
        """The trials that run, and the keys that wait or are worked at.

        An idle worker asks at every look, and there may be thousands of both: one read, and each
        trial that has ended is looked at once, for it does not change any more.
        """
        running: list[FrozenTrial] = []
        active: set[str] = set()
        for trial in self._read():
            if trial.number in self._ended:
                continue
            key = trial.user_attrs["key"]
            if not trial.state.is_finished():
                active.add(key)
                if trial.state == TrialState.RUNNING:
                    running.append(trial)
                continue
            self._ended.add(trial.number)
            if trial.state == TrialState.COMPLETE:
                self._done.add(key)
                self._failed.pop(key, None)
            elif key not in self._done:
                self._failed[key].append(trial)
        return running, active

    def _left_alone(self, active: set[str]) -> dict[str, list[FrozenTrial]]:
        """The failed trials of tasks that are not active and have come to no result."""
        return {
            key: sorted(trials, key=lambda trial: trial.number)
            for key, trials in self._failed.items()
            if key not in active
        }

    def queue_again(self, by_key: Mapping[str, Sequence[FrozenTrial]]) -> list[str]:
        """Queues the tasks again of which all of these trials have failed, unless lost.

        Returns:
            What was done, a line each.
        """
        news = []
        for key, of_key in by_key.items():
            if any(trial.state != TrialState.FAIL for trial in of_key):
                continue
            if self._lost(of_key):
                continue
            self._queue(_asked(of_key[-1]))
            news.append(f"{key} waits for attempt {1 + self._failures(of_key)}")
        return news

    def retry_lost(self) -> list[str]:
        """Queues the tasks that count as lost again, with all their attempts before them.

        Returns:
            What was done, a line each.
        """
        news = []
        for key, of_key in self._by_key(self._read()).items():
            if self._lost(of_key):
                self._queue({**_asked(of_key[-1]), SINCE: of_key[-1].number + 1})
                news.append(f"{key} was lost, and is tried again")
        return news

    def trials_of(self, keys: set[str]) -> Mapping[str, list[FrozenTrial]]:
        """All trials of these tasks, in their order."""
        return self._by_key(self._read(), keys)

    def end(self, trial: int, reason: str, *, counts: bool) -> bool:
        """Ends a trial that came to nothing; whether it was this call that ended it."""
        try:
            self.storage.set_trial_user_attr(trial, GONE, reason)
            self.storage.set_trial_user_attr(trial, COUNTS, counts)
            return self.storage.set_trial_state_values(trial, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False

    # what there is

    def standing(self) -> list[Standing]:
        """How every task stands, in the order in which they were queued first."""
        trials = self._read()
        self._observe(trials)
        return [self._stands(of_key) for of_key in self._by_key(trials).values()]

    def tokens(self) -> set[str]:
        """Of the claims that are held."""
        running = self._read((TrialState.RUNNING,))
        return {str(trial.user_attrs.get("claim")) for trial in running}

    def unfinished(self) -> int:
        """How many tasks are neither done nor lost."""
        _, active = self._under_way()
        alone = self._left_alone(active).values()
        return len(active - self._done) + sum(not self._lost(trials) for trials in alone)

    def results(self, kind: str | None = None) -> dict[str, Any]:
        """The results of the tasks that are done, by key, in the order in which they were queued.

        Args:
            kind: of these alone.
        """
        found: dict[str, Any] = {}
        for key, trials in self._by_key(self._read()).items():
            done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
            if done and kind in (None, done[0].user_attrs["kind"]):
                found[key] = whole(RESULT, done[0].user_attrs)
        return found

    def _stands(self, trials: list[FrozenTrial]) -> Standing:
        first, failed = trials[0].user_attrs, [t for t in trials if t.state == TrialState.FAIL]
        task = Task(first["key"], first["kind"])
        told = [t for t in failed if t.user_attrs.get(GONE) != SUPERFLUOUS]
        reason = str(told[-1].user_attrs.get(GONE, "")) if told else ""
        by_state = {trial.state: trial for trial in reversed(trials)}  # the lowest of each
        for wanted, state in (
            (TrialState.COMPLETE, "done"),
            (TrialState.RUNNING, "running"),
            (TrialState.WAITING, "waiting"),
        ):
            if wanted not in by_state:
                continue
            trial = by_state[wanted]
            before = [t for t in failed if t.number < trial.number]
            seen, begun = self._seen.get(trial._trial_id), trial.datetime_start
            return Standing(
                task,
                state,
                str(trial.user_attrs.get("worker", "")),
                1 + self._failures([*before, trial]),
                seen.still if seen else None,
                trial.user_attrs.get("beat", [0, None])[1],
                (trial.datetime_complete - begun).total_seconds()
                if trial.datetime_complete and begun
                else None,
                reason,
            )
        lost = self._lost(trials)
        attempt = self._failures(trials) + (not lost)
        return Standing(task, "lost" if lost else "waiting", "", attempt, None, None, None, reason)

    def _lost(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether a task, of which these are all trials, is given up."""
        if any(trial.state != TrialState.FAIL for trial in trials):
            return False
        return self._failures(trials) >= self.rules.attempts

    def _failures(self, trials: Sequence[FrozenTrial]) -> int:
        """How many of the trials of a task, in their order, are attempts that failed."""
        since = trials[-1].user_attrs[SINCE]
        return sum(
            trial.number >= since
            and trial.state == TrialState.FAIL
            and bool(trial.user_attrs.get(COUNTS))
            for trial in trials
        )

    def _by_key(
        self, trials: Iterable[FrozenTrial], keys: set[str] | None = None
    ) -> Mapping[str, list[FrozenTrial]]:
        """The trials of each task, in their order."""
        found: defaultdict[str, list[FrozenTrial]] = defaultdict(list)
        for trial in trials:
            key = trial.user_attrs["key"]
            if keys is None or key in keys:
                found[key].append(trial)
        return found

    def _queue(self, attributes: Mapping[str, Any]) -> None:
        waiting = create_trial(state=TrialState.WAITING, user_attrs=dict(attributes))
        self.storage.create_new_trial(self._study, waiting)

    def _read(self, states: tuple[TrialState, ...] | None = None) -> list[FrozenTrial]:
        return self.storage.get_all_trials(self._study, deepcopy=False, states=states)


def _asked(trial: FrozenTrial) -> dict[str, Any]:
    """What a trial says of its task, without what became of it."""
    return {
        name: value
        for name, value in trial.user_attrs.items()
        if name in ("key", "kind", SINCE, PAYLOAD) or name.startswith(f"{PAYLOAD}.")
    }
