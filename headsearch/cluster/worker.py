"""A worker: takes one task of a shared study after another, until no task is left.

A task is a cohort or a solo run. A cohort is trained by an ordinary `Search` over its candidates,
in a directory of the worker, so that a diverging base, a cohort that does not fit into memory and a
collapsing head are treated as in any search. The result is committed as a whole: a worker that dies
before leaves nothing behind.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from optuna.trial import FixedTrial, TrialState

from headsearch import torchrun
from headsearch.cluster.engine.claims import Claim, TakenOverError
from headsearch.cluster.engine.dashboard import Mirror, sweep
from headsearch.cluster.engine.heartbeat import Pulse
from headsearch.cluster.engine.queue import Tasks
from headsearch.cluster.jobs import (
    cohort_result,
    cohort_search,
    rung_line,
    solo_result,
    solo_setup,
)
from headsearch.cluster.shared_study import COHORT, SOLO, SharedStudy, under_first_weights
from headsearch.errors import UserError
from headsearch.models.space import Candidate
from headsearch.pretraining.head_selection import Head, head_on
from headsearch.pretraining.solo import SoloDivergedError, SoloEvent, SoloRun, SoloScored
from headsearch.runs.storage import OUT_OF_REACH, patiently, reason_of
from headsearch.runs.tables import NO_HEAD
from headsearch.study.events import Event, Noted, Scored
from headsearch.study.followers import follow
from headsearch.study.job_commands import End
from headsearch.study.search import Search
from headsearch.study.setup import SearchSetup
from headsearch.text import duration, for_file_name
from headsearch.training.distributed import broadcast_object, receive_object

T = TypeVar("T")
Say: TypeAlias = Callable[[str], None]

FIRST_PAUSE_S, LONGEST_PAUSE_S, GROWTH = 1.0, 30.0, 1.5
"""Pauses in seconds between two looks at a queue without free tasks: the first, the longest, and
the factor between them. Each pause is varied by half, so that workers that started together do not
ask at the same moment."""
WEIGHTS_FOLDER = "first-weights"
FAILURES = 2
"""The number of failures in a row after which a worker ends. One failure may be the task's fault;
two in a row point to the machine."""


class Stopped(Exception):  # noqa: N818 - it is no error
    """The worker was asked to stop in the middle of a task."""


@dataclass(frozen=True)
class TakeCohort:
    """To the other processes of a job: follow the search of a cohort and its commands."""


@dataclass(frozen=True)
class TakeSolo:
    """To the other processes of a job: train the solo run of this task.

    Attributes:
        payload: the content of the task.
    """

    payload: Mapping[str, Any]


@dataclass(frozen=True)
class Wait:
    """To the other processes of a job: no task is free. Without a message they would time out."""


@dataclass(frozen=True)
class Part:
    """To the other processes of a job: the worker has ended."""


class Worker:
    """Trains tasks of a shared study. Creating a `Worker` claims nothing.

    Args:
        study: the study.
        prepared: the set-up of its cohorts (`shared_study.prepare_as_submitted`).
        out: the worker's own folder.
        name: the worker's name, which others see.

    Attributes:
        stop: set it to give the current task back and take no other.
        done: the number of tasks whose results it has committed.
    """

    def __init__(self, study: SharedStudy, prepared: SearchSetup, out: Path, name: str) -> None:
        self.study, self.prepared, self.out, self.name = study, prepared, out, name
        self.stop = threading.Event()
        self.done = 0
        self._failed = 0
        self._tasks: Tasks = study.tasks()
        self._rules = self._tasks.rules

    def run(self, say: Say = lambda line: None) -> None:
        """Takes tasks until none is left or `stop` is set.

        In a job of several processes, the first one calls this, and the others call `follow`.

        Args:
            say: called with a line of text about everything that happens. If it raises an error,
                the current task is given back and the worker ends.

        Raises:
            UserError: a task cannot be done here, or the storage stays out of reach.
        """
        self._until_nothing_is_left(say)
        broadcast_object(Part())

    def follow(self) -> None:
        """Carries out what the first process of the job broadcasts, until the worker ends.

        Raises:
            UserError: another process of the job has ended early.
        """
        while True:
            match receive_object():
                case TakeCohort():
                    follow(self.prepared)
                case TakeSolo(payload):
                    setup = self.prepared.training.under(int(payload["seed"]))
                    head = self._head(payload["candidate"])
                    planned = solo_setup(setup, head, float(payload["lr"]))
                    with suppress(SoloDivergedError):  # the first process reports it
                        SoloRun(planned.setup, planned.candidate).run()
                case Wait():
                    pass
                case Part():
                    return
                case other:
                    raise AssertionError(f"not a message of a worker: {other}")

    def _until_nothing_is_left(self, say: Say) -> None:
        """Claims and trains tasks; waits while all unfinished ones are with other workers."""
        pause = FIRST_PAUSE_S
        while not self.stop.is_set():
            news = self._ask(self._tasks.look)
            if news:
                for line in news:
                    say(line)
                sweep(self.study.storage, self.study.id, self._tasks.tokens)
            claim = self._ask(lambda: self._tasks.claim(self.name))
            if claim is not None:
                pause = FIRST_PAUSE_S
                self._work_at(claim, say)
                continue
            if self._ask(self._tasks.unfinished) == 0:
                return
            broadcast_object(Wait())
            self.stop.wait(pause * random.uniform(0.5, 1.5))
            pause = min(GROWTH * pause, LONGEST_PAUSE_S, self._rules.grace / 4)

    def _ask(self, call: Callable[[], T]) -> T:
        """Calls the storage, again and again if it is out of reach for a while."""
        try:
            return patiently(call, self._rules.grace)
        except OUT_OF_REACH as error:
            raise UserError(f"the storage is out of reach: {reason_of(error)}") from None

    def _work_at(self, claim: Claim, say: Say) -> None:
        """Trains a claimed task; if that fails or is stopped, the task is left to others."""
        key, attempt = claim.task.key, claim.attempt
        began = time.monotonic()
        folder = self.out / for_file_name(f"{key.replace(' ', '-')}-{claim.token[:8]}")
        ways = {COHORT: self._train_cohort, SOLO: self._train_alone}
        try:
            say(f"{key} claimed" + (f", attempt {attempt}" if attempt > 1 else ""))
            with Pulse(claim, self._rules.heartbeat, self._rules.grace) as pulse:
                if claim.task.kind not in ways:
                    raise UserError(f"{key}: a later headsearch queued it: update headsearch")
                ways[claim.task.kind](claim, folder, pulse, say)
        except TakenOverError as error:
            say(f"{error}; what was done of it is thrown away")
        except Stopped:
            self._give(claim.release, "its worker was told to stop")
            say(f"{key} is given back")
        except KeyboardInterrupt:  # a second Ctrl-C
            self._give(claim.release, "its worker was told to stop")
            raise
        except Exception as error:
            self._give(claim.fail, f"{self.name}: {reason_of(error)}")
            self._failed += 1
            # In a job, the other processes are in the middle of the task: only an end stops them.
            if self._failed == FAILURES or torchrun.count() > 1:
                raise
            say(f"{key} failed, and is left to others: {reason_of(error)}")
        else:
            self.done, self._failed = self.done + 1, 0
            say(f"{key} done in {duration(time.monotonic() - began)}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # the next worker of the task starts anew

    def _give(self, back: Callable[[str], None], reason: str) -> None:
        with suppress(TakenOverError, *OUT_OF_REACH):
            back(reason)

    def _commit(self, claim: Claim, result: Mapping[str, Any]) -> None:
        self._ask(lambda: claim.commit({**result, "worker": self.name}))

    def _check(self, pulse: Pulse) -> None:
        """Raises if the current task was taken over by another worker, or `stop` is set."""
        if pulse.lost is not None:
            raise TakenOverError(pulse.lost)
        if self.stop.is_set():
            raise Stopped

    # cohorts

    def _train_cohort(self, claim: Claim, folder: Path, pulse: Pulse, say: Say) -> None:
        asked = [self._candidate(head) for head in claim.task.payload["candidates"]]
        search = cohort_search(self.prepared, [candidate for candidate, _ in asked], folder)
        mirror = Mirror(
            self.study.storage,
            self.study.id,
            claim,
            [(c.name, t.params, t.distributions, c.control) for c, t in asked],
        )
        try:
            self._search(search, claim, mirror, pulse, say)
        except BaseException as error:
            mirror.give_up(str(error) or "its worker was told to stop")
            raise
        result = cohort_result(search)
        self._commit(claim, result)
        for trial in result["trials"]:
            name, reason = trial["attrs"]["candidate"], trial["attrs"].get("reason", "")
            mirror.end(name, TrialState[trial["state"]], trial["value"], reason)

    def _search(self, search: Search, claim: Claim, mirror: Mirror, pulse: Pulse, say: Say) -> None:
        """Runs the search of a cohort. That its base diverges for good counts as a result too."""

        def observe(event: Event) -> None:
            self._check(pulse)
            if isinstance(event, Noted):
                say(f"{claim.task.key}: {event.text}")
            elif isinstance(event, Scored):
                say(f"{claim.task.key} {rung_line(event, search.config.rungs)}")
                scored = [
                    entry
                    for entry in event.leaderboard.entries.values()
                    if entry.rungs == event.rung and entry.score == entry.score
                ]
                mirror.report({e.candidate.name: e.score for e in scored}, event.rung)

        broadcast_object(TakeCohort())
        try:
            search.run(observe)
        except UserError as error:
            if not search.state.facts.get("diverged"):
                raise
            # A search that fails does not send this, but the worker and its job continue here.
            broadcast_object(End(search.run_directory))
            say(f"{claim.task.key}: {error}")
        else:
            if not search.complete:
                self._check(pulse)

    def _candidate(self, head: Mapping[str, Any]) -> tuple[Candidate, FixedTrial]:
        trial = FixedTrial(dict(head["params"]))
        candidate = self.prepared.space.suggest(trial)
        if candidate.name != head["name"]:
            raise UserError(
                f"--study {self.study.name}: {head['name']} is {candidate.name} here: use the same "
                "version of headsearch"
            )
        return candidate, trial

    # solo runs

    def _train_alone(self, claim: Claim, folder: Path, pulse: Pulse, say: Say) -> None:
        payload = claim.task.payload
        seed = int(payload["seed"])
        cache = self.out / WEIGHTS_FOLDER
        setup = under_first_weights(
            self.study, self.prepared.training, seed, payload["first_weights"], cache
        )
        planned = solo_setup(setup, self._head(payload["candidate"]), float(payload["lr"]), folder)

        def observe(event: SoloEvent) -> None:
            self._check(pulse)
            if isinstance(event, SoloScored):
                say(f"{claim.task.key} rung {event.rung}/1 | step {event.step}")

        broadcast_object(TakeSolo(payload))
        about = {name: payload[name] for name in ("candidate", "family", "seed")}
        try:
            row = solo_result(planned, observe)
        except SoloDivergedError as error:  # it would diverge on any machine: that is the result
            self._commit(claim, {"about": about, "failure": str(error)})
            say(f"{claim.task.key}: {error}")
        else:
            self._commit(claim, {"about": about, "row": row})

    def _head(self, name: str) -> Head | None:
        if name == NO_HEAD:
            return None
        for head in (head for cohort in self.study.cohorts for head in cohort):
            if head["name"] == name:
                return Head(self._candidate(head)[0], {}, [])
        return head_on(self.prepared.plan, name)
