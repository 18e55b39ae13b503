"""A task of a shared study and a worker's claim to it: heartbeats, results, giving it back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from headsearch.cluster.engine.chunked_attributes import pieces

if TYPE_CHECKING:
    from headsearch.cluster.engine.queue import Tasks

RESULT, PAYLOAD = "result", "payload"
GONE = "gone"
"""Trial attribute: the reason why the trial failed."""


COUNTS = "counts"
"""Trial attribute: whether the failed trial counts as an attempt. It does not if the worker gave
the task back."""


SINCE = "since"
"""Trial attribute: the number of the first trial whose failure counts. Failures before it are
ignored, since the task has been queued anew."""


SUPERFLUOUS = "queued twice"


@dataclass(frozen=True)
class Rules:
    """Timeouts and number of attempts of a queue.

    Attributes:
        heartbeat: seconds between two beats of a worker.
        grace: seconds without a beat after which a worker counts as dead; at least three
            heartbeats, so that one late beat costs no work.
        attempts: how often a task may fail, or its worker die, before it counts as lost.

    Raises:
        ValueError: if a value is out of range.
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
    """A unit of work that must be done once.

    Attributes:
        key: the unique name of the task.
        kind: tells workers what to do.
        payload: the data that workers need, as JSON values.
    """

    key: str
    kind: str
    payload: Any = None


class TakenOverError(Exception):
    """The worker counted as dead: another worker has the task, and a result is discarded."""


@dataclass(frozen=True)
class Standing:
    """The status of a task.

    Attributes:
        task: the task, without its payload.
        state: `waiting`, `running`, `done` or `lost`.
        worker: the worker that runs or has done the task; empty if there is none.
        attempt: the number of the attempt, from 1.
        silent: seconds for which this observer has seen the beat unchanged; None if it has not
            looked twice, or no worker runs the task.
        beat_at: the time of the worker's last beat, in seconds since the epoch by the worker's own
            wall clock. For display only.
        seconds: how long the task took, if it is done.
        reason: the reason of the latest failure; empty if there was none.
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
class SeenBeat:
    """A worker's beat as an observer last saw it, and for how long it has been unchanged."""

    beat: int
    at: float
    still: float = 0.0


@dataclass
class Claim:
    """A task that a worker has claimed. Its methods may be called from any thread.

    Attributes:
        task: the task.
        attempt: the number of the attempt, from 1.
        worker: the name of the worker.
        token: a unique id of this claim.
    """

    task: Task
    attempt: int
    worker: str
    _tasks: Tasks = field(repr=False)
    _trial: int = field(repr=False)
    token: str = field(repr=False)
    _beat: int = field(default=0, repr=False)

    def beat(self) -> None:
        """Records that the worker is alive.

        Raises:
            TakenOverError: the worker counts as dead already.
        """
        self._beat += 1
        self._set("beat", [self._beat, self._tasks.wall()])

    def commit(self, result: Any) -> None:
        """Ends the task with its result, made of JSON values.

        Raises:
            TakenOverError: the worker counts as dead already; the result is discarded.
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
                return  # An earlier call succeeded, but its answer was lost.
            raise self._taken_over(trial) from None

    def release(self, reason: str) -> None:
        """Gives the task back for others to start again; no attempt is counted.

        Raises:
            TakenOverError: the worker counts as dead already.
        """
        self._give_up(reason, counts=False)

    def fail(self, reason: str) -> None:
        """Records a failed attempt; others retry the task as often as the rules allow.

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


def task_attributes(trial: FrozenTrial) -> dict[str, Any]:
    """The attributes of a trial that describe its task, without those of the attempt."""
    return {
        name: value
        for name, value in trial.user_attrs.items()
        if name in ("key", "kind", SINCE, PAYLOAD) or name.startswith(f"{PAYLOAD}.")
    }
