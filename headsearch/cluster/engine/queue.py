"""A task queue for many machines, stored as trials of an Optuna study.

Each task has a key. Each attempt at a task is one trial of the study `NAME.tasks`: WAITING until a
worker claims it, RUNNING while the worker works, then COMPLETE with a result, or FAIL. The storage
lets only one worker claim a trial (the change WAITING → RUNNING succeeds once). The change to
COMPLETE is the atomic commit of a result. If several trials of a key are COMPLETE, the one with the
lowest number counts.

Workers may die without notice. Each worker therefore increments a counter, the *beat*, in its
trial. An *observer* is any process that calls `Tasks.look`. If it sees a beat unchanged for the
grace period, measured by its own clock, it takes the task back. Clocks of different machines are
never compared. Failures and how they are handled:

- Two observers see the same dead worker: only one can end its trial. If both queue the task again,
  the second of the two trials is superfluous, and the worker that claims it ends it.
- An observer ends a trial and dies before it queues the task again: the next observer does so.
- The worker was not dead: at its next beat or at its end it finds its trial ended
  (`TakenOverError`), and its result is discarded.
- The storage was unreachable, or the observer suspended: the time between two looks counts for at
  most half the grace period, so that all workers have time to beat again.

This module never sleeps, uses only the clocks passed to it, and does not depend on what tasks do.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from uuid import uuid4

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from headsearch.cluster.engine.chunked_attributes import pieces, whole
from headsearch.cluster.engine.claims import (
    COUNTS,
    GONE,
    PAYLOAD,
    RESULT,
    SINCE,
    SUPERFLUOUS,
    Claim,
    Rules,
    SeenBeat,
    Standing,
    Task,
    task_attributes,
)

SUFFIX = ".tasks"


class Tasks:
    """The task queue of a study, as one worker or observer sees it.

    Args:
        storage: the Optuna storage of the study.
        name: the name of the study that the tasks belong to.
        clock: a monotonic clock, in seconds.
        wall: the wall clock, in seconds since the epoch; stored with beats, for display.
        seed: seeds the choice of a task where many workers claim at once.

    Attributes:
        rules: timeouts and number of attempts.

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
        self._clock, self._rng = clock, random.Random(seed)
        self._seen: dict[int, SeenBeat] = {}
        # A cache of trials that have ended, which never change again: their numbers, the keys that
        # have a result, and the failed trials of keys that have none.
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
        """Creates a queue with these tasks.

        Args:
            rules: timeouts and number of attempts.
            how: further arguments of `Tasks`.

        Raises:
            DuplicatedStudyError: a queue of this name exists.
        """
        study = storage.create_new_study([StudyDirection.MINIMIZE], name + SUFFIX)
        storage.set_study_user_attr(study, "rules", vars(rules or Rules()))
        made = cls(storage, name, **how)
        made.add(tasks)
        return made

    def add(self, tasks: Iterable[Task]) -> int:
        """Queues tasks whose keys are not queued yet; returns how many were queued.

        A task that counts as lost is queued again with its full number of attempts.
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
        """Claims the first waiting task for this worker; None if no task waits.

        If another worker is faster, a random task further back is tried, from a range that doubles
        each time. Otherwise many workers that start at once would compete for each task in turn.
        """
        waiting = self._read((TrialState.WAITING,))
        reach = 1
        while waiting:
            trial = waiting.pop(self._rng.randrange(min(reach, len(waiting))))
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
        except UpdateFinishedTrialError:  # Claiming took longer than the grace period.
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
        """Takes back the tasks of dead workers, and queues failed tasks that nobody has queued.

        Call it regularly, a few times per grace period.

        Returns:
            One line for each action.
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
        return news + self.queue_again(self._abandoned(active))

    def _observe(self, trials: Iterable[FrozenTrial]) -> None:
        """Records which beats have changed since the last look, and how long others have not."""
        now, seen = self._clock(), self._seen
        self._seen = {}
        for trial in trials:
            if trial.state != TrialState.RUNNING:
                continue
            beat, before = trial.user_attrs.get("beat", [0])[0], seen.get(trial._trial_id)
            if before is None or before.beat != beat:
                self._seen[trial._trial_id] = SeenBeat(beat, now)
            else:
                # Bounded, so that an observer that was suspended declares nobody dead at once.
                elapsed = min(now - before.at, self.rules.grace / 2)
                self._seen[trial._trial_id] = SeenBeat(beat, now, before.still + elapsed)

    def _under_way(self) -> tuple[list[FrozenTrial], set[str]]:
        """The running trials, and the keys of tasks that wait or run.

        Idle workers call this at every look, and there may be thousands of workers and trials. So
        it reads the storage once, and processes each ended trial only once.
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

    def _abandoned(self, active: set[str]) -> dict[str, list[FrozenTrial]]:
        """The failed trials of the tasks that neither wait nor run and have no result."""
        return {
            key: sorted(trials, key=lambda trial: trial.number)
            for key, trials in self._failed.items()
            if key not in active
        }

    def queue_again(self, by_key: Mapping[str, Sequence[FrozenTrial]]) -> list[str]:
        """Queues again the tasks whose trials have all failed, unless they are lost.

        Returns:
            One line for each action.
        """
        news = []
        for key, of_key in by_key.items():
            if any(trial.state != TrialState.FAIL for trial in of_key):
                continue
            if self._lost(of_key):
                continue
            self._queue(task_attributes(of_key[-1]))
            news.append(f"{key} waits for attempt {1 + self._failures(of_key)}")
        return news

    def retry_lost(self) -> list[str]:
        """Queues again the tasks that count as lost, with their full number of attempts.

        Returns:
            One line for each action.
        """
        news = []
        for key, of_key in self._by_key(self._read()).items():
            if self._lost(of_key):
                self._queue({**task_attributes(of_key[-1]), SINCE: of_key[-1].number + 1})
                news.append(f"{key} was lost, and is tried again")
        return news

    def trials_of(self, keys: set[str]) -> Mapping[str, list[FrozenTrial]]:
        """All trials of these tasks by key, in the order of their numbers."""
        return self._by_key(self._read(), keys)

    def end(self, trial: int, reason: str, *, counts: bool) -> bool:
        """Ends a trial as failed; returns whether this call ended it.

        Args:
            trial: the storage's id of the trial.
            reason: why it failed.
            counts: whether the failure counts as an attempt.
        """
        try:
            self.storage.set_trial_user_attr(trial, GONE, reason)
            self.storage.set_trial_user_attr(trial, COUNTS, counts)
            return self.storage.set_trial_state_values(trial, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False

    # queries

    def standing(self) -> list[Standing]:
        """The status of every task, in the order in which they were first queued."""
        trials = self._read()
        self._observe(trials)
        return [self._status_of(of_key) for of_key in self._by_key(trials).values()]

    def tokens(self) -> set[str]:
        """The tokens of all claims on running tasks."""
        running = self._read((TrialState.RUNNING,))
        return {str(trial.user_attrs.get("claim")) for trial in running}

    def unfinished(self) -> int:
        """The number of tasks that are neither done nor lost."""
        _, active = self._under_way()
        alone = self._abandoned(active).values()
        return len(active - self._done) + sum(not self._lost(trials) for trials in alone)

    def results(self, kind: str | None = None) -> dict[str, Any]:
        """The results of the tasks that are done, by key, in the order in which they were queued.

        Args:
            kind: restricts the results to tasks of this kind.
        """
        found: dict[str, Any] = {}
        for key, trials in self._by_key(self._read()).items():
            done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
            if done and kind in (None, done[0].user_attrs["kind"]):
                found[key] = whole(RESULT, done[0].user_attrs)
        return found

    def _status_of(self, trials: list[FrozenTrial]) -> Standing:
        first, failed = trials[0].user_attrs, [t for t in trials if t.state == TrialState.FAIL]
        task = Task(first["key"], first["kind"])
        real_failures = [t for t in failed if t.user_attrs.get(GONE) != SUPERFLUOUS]
        reason = str(real_failures[-1].user_attrs.get(GONE, "")) if real_failures else ""
        # Reversed, so that the lowest-numbered trial of each state remains.
        by_state = {trial.state: trial for trial in reversed(trials)}
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
        """Whether the task with these trials has failed too often to be tried again."""
        if any(trial.state != TrialState.FAIL for trial in trials):
            return False
        return self._failures(trials) >= self.rules.attempts

    def _failures(self, trials: Sequence[FrozenTrial]) -> int:
        """The number of a task's trials that count as failed attempts.

        Args:
            trials: in the order of their numbers; the last one says from which trial on they count.
        """
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
        """The trials of each task by key, in the order given."""
        found: defaultdict[str, list[FrozenTrial]] = defaultdict(list)
        for trial in trials:
            key = trial.user_attrs["key"]
            if keys is None or key in keys:
                found[key].append(trial)
        return found

    def _queue(self, attributes: Mapping[str, Any]) -> None:
        trial = create_trial(state=TrialState.WAITING, user_attrs=dict(attributes))
        self.storage.create_new_trial(self._study, trial)

    def _read(self, states: tuple[TrialState, ...] | None = None) -> list[FrozenTrial]:
        return self.storage.get_all_trials(self._study, deepcopy=False, states=states)
