"""The driver: starts a task for every job, and again if that fails, is lost or falls silent.

The driver alone decides which result counts. It takes only what comes from the latest attempt at a
job: a process that was thought dead may wake up and go on, and nothing that it says is heard.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from headsearch.cluster.engine import Ended, Engine, Heard, Message, News
from headsearch.errors import UserError
from headsearch.text import counted

FAILURES = 3
"""How often a job may fail by an error of its own before it is set aside."""
LOSSES = 20
"""How often a job may lose its process or machine, or fall silent. That is seldom the job's fault,
so the bound is generous; it is there so that a job that kills its machines does not do so for ever.
"""
IN_FLIGHT = 1000
"""The largest number of tasks that the engine is given at a time."""
POLL_S = 0.5
"""Seconds that one look at the engine waits for news."""
STOPPING_S = 45.0
"""Seconds that tasks have to write a snapshot and end, once the driver is to stop."""


@dataclass
class Attempt:
    """One attempt at a job: a task of the engine.

    Attributes:
        number: from 1 on; earlier processes of the same run count too.
        task: the task's number.
        heard_at: when it last said something, by the driver's clock; None before it begins.
        machine: the identifier of its machine; empty before it begins.
        host, pid: the name of its machine, and the number of its process there.
        step, steps: the steps that it has taken, and all its steps; 0 while it starts.
        rung: the last rung that it has scored, in words.
    """

    number: int
    task: int
    heard_at: float | None = None
    machine: str = ""
    host: str = ""
    pid: int = 0
    step: int = 0
    steps: int = 0
    rung: str = ""


@dataclass
class Job:
    """A cohort or a solo run that is to be trained.

    Attributes:
        name: how it is called in messages.
        order: what its task is told.
        folder: its attempts are in folders of this name with `.1`, `.2`, … at the end.
        attempt: the one that runs or waits for a machine; None for none.
        attempts: how many were started by this driver.
        failures, losses: how many of them ended so.
        reason: why the last of them ended.
        state: waiting, running, done or set aside.
    """

    name: str
    order: Mapping[str, Any]
    folder: Path
    attempt: Attempt | None = None
    attempts: int = 0
    failures: int = 0
    losses: int = 0
    reason: str = ""
    state: str = "waiting"

    def next_number(self) -> int:
        """The number of the next attempt: one more than that of any folder there is."""
        return 1 + max(map(attempt_number, attempt_folders(self.folder)), default=0)


@dataclass(frozen=True)
class JobStates:
    """How all jobs stand. Jobs change in place.

    Attributes:
        jobs: the jobs of this call of `Driver.run`.
        machines: the number of machines that are alive.
        ended: the job that has just ended, if any.
    """

    jobs: Sequence[Job]
    machines: int
    ended: Job | None = None


@dataclass(frozen=True)
class Note:
    """Something that the user is told, in a line."""

    text: str


DriverEvent: TypeAlias = JobStates | Note
Accept: TypeAlias = Callable[[Job, Message, Path], None]
"""Told of a job, its result, and the folder of the attempt that came to it."""


@dataclass
class Driver:
    """Runs jobs on an engine.

    Args:
        engine: the engine.
        grace: seconds without a sign of life after which an attempt counts as lost.
        accept: called once for each job that has a result.
        notify: called with every event.
        clock: the time in seconds; replaced in tests.
    """

    engine: Engine
    grace: float
    accept: Accept
    notify: Callable[[DriverEvent], None] = lambda event: None
    clock: Callable[[], float] = time.monotonic
    _by_task: dict[int, Job] = field(default_factory=dict)
    _refusing: dict[str, str] = field(default_factory=dict)
    _waiting: deque[Job] = field(default_factory=deque)
    _jobs: Sequence[Job] = ()

    def run(self, jobs: Sequence[Job], stop: threading.Event) -> None:
        """Returns when every job is done or set aside, or when `stop` was set and tasks have ended.

        Raises:
            UserError: the engine is gone, or each of its machines refuses the work.
        """
        self._jobs = jobs
        self._waiting = deque(jobs)
        try:
            while self._waiting or self._by_task:
                if stop.is_set():
                    break
                while self._waiting and len(self._by_task) < IN_FLIGHT:
                    self._start(self._waiting.popleft())
                self._listen(POLL_S)
                self._end_silent()
        except KeyboardInterrupt:  # a second Ctrl-C
            self._end_all(0.0)
            raise
        except BaseException:
            self._end_all(STOPPING_S)
            raise
        self._end_all(STOPPING_S)

    def _start(self, job: Job) -> None:
        number = job.next_number()
        folder = attempt_folder(job.folder, number)
        folder.mkdir(parents=True)  # from now on, this number is taken
        order = {**job.order, "folder": str(folder), "grace": self.grace}
        task = self.engine.start(order, tuple(self._refusing))
        job.attempt, job.state = Attempt(number, task), "waiting"
        job.attempts += 1
        self._by_task[task] = job

    def _listen(self, seconds: float) -> None:
        """Takes up what the engine has to say."""
        for news in self.engine.news(seconds):
            job = self._by_task.get(news.task)
            if job is not None:  # else an attempt that was given up
                self._take(job, news)
        self._show()

    def _take(self, job: Job, news: News) -> None:
        attempt = job.attempt
        assert attempt is not None
        if isinstance(news, Ended):
            self._lost(job, news.reason or "its process ended without a result")
            return
        attempt.heard_at = self.clock()
        message = news.message
        match message["kind"]:
            case "begun":
                attempt.machine, attempt.host = message["machine"], message["host"]
                attempt.pid = message["pid"]
                job.state = "running"
            case "step":
                attempt.step, attempt.steps = message["step"], message["steps"]
            case "rung":
                attempt.rung = message["text"]
                self.notify(Note(f"{job.name} {message['text']}"))
            case "note":
                self.notify(Note(f"{job.name}: {message['text']}"))
            case "done":
                self._done(job, attempt, message["result"])
            case "failed":
                self._failed(job, message["reason"])
            case "lost":
                self._lost(job, message["reason"])
            case "refused":
                self._refused(job, attempt, message["reason"])

    def _done(self, job: Job, attempt: Attempt, result: Message) -> None:
        self._forget(job)
        job.state = "done"
        self.accept(job, result, attempt_folder(job.folder, attempt.number))
        self._show(job)

    def _failed(self, job: Job, reason: str) -> None:
        job.failures += 1
        self._again(job, f"failed: {reason}", job.failures < FAILURES)

    def _lost(self, job: Job, reason: str) -> None:
        job.losses += 1
        self._again(job, f"was lost: {reason}", job.losses < LOSSES)

    def _refused(self, job: Job, attempt: Attempt, reason: str) -> None:
        """A machine cannot do the work: none of the jobs is sent there again."""
        self._refusing[attempt.machine] = reason
        left = set(self.engine.machines()) - set(self._refusing)
        if not left:
            raise UserError(f"{attempt.host}: {reason}")
        self._again(job, f"was refused by {attempt.host}: {reason}", True)

    def _again(self, job: Job, how: str, retried: bool) -> None:
        """Starts another attempt at a job, or sets it aside.

        Args:
            job: the job.
            how: how its attempt ended.
            retried: whether there is another.
        """
        attempt = job.attempt
        assert attempt is not None
        self._forget(job)
        job.reason = how
        where = f" on {attempt.host}" if attempt.host else ""
        self.notify(Note(f"{job.name}, attempt {attempt.number}{where}, {how}"))
        if retried:
            self._start(job)
            return
        job.state = "set aside"
        self.notify(Note(f"{job.name} is set aside after {counted(job.attempts, 'attempt')}"))
        self._show(job)

    def _end_silent(self) -> None:
        """Ends attempts that have given no sign of life for too long."""
        now = self.clock()
        for job in list(self._by_task.values()):
            attempt = job.attempt
            assert attempt is not None
            if attempt.heard_at is not None and now - attempt.heard_at > self.grace:
                self.engine.cancel(attempt.task, force=True)
                self._lost(job, f"no sign of life for {self.grace:g} s (--grace)")

    def _end_all(self, seconds: float) -> None:
        """Lets the tasks that are left write a snapshot and end; ends them by force after that."""
        self._waiting.clear()
        for task in self._by_task:
            self.engine.cancel(task, force=False)
        end = self.clock() + seconds
        while self._by_task and self.clock() < end:
            for news in self.engine.news(POLL_S):
                job = self._by_task.get(news.task)
                if job is None:
                    continue
                if isinstance(news, Heard) and news.message["kind"] == "done":
                    self._take(job, news)
                elif isinstance(news, Ended):
                    self._forget(job)
                    job.state = "waiting"
        for task, job in list(self._by_task.items()):
            self.engine.cancel(task, force=True)
            self._forget(job)

    def _forget(self, job: Job) -> None:
        assert job.attempt is not None
        self._by_task.pop(job.attempt.task, None)
        job.attempt = None

    def _show(self, ended: Job | None = None) -> None:
        self.notify(JobStates(self._jobs, len(self.engine.machines()), ended))


def attempt_folder(folder: Path, number: int) -> Path:
    """The folder of an attempt at a job, with everything that it writes."""
    return folder.with_name(f"{folder.name}.{number}")


def attempt_number(folder: Path) -> int:
    """The number of the attempt whose folder this is."""
    return int(folder.name.rpartition(".")[2])


def attempt_folders(folder: Path) -> Iterator[Path]:
    """The folders of all attempts at a job, in no order."""
    for each in folder.parent.glob(f"{folder.name}.*"):
        if each.name.removeprefix(f"{folder.name}.").isdecimal():
            yield each
