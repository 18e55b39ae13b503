"""A worker: takes one task of a shared study after another, until nothing is left.

A cohort is trained by an ordinary `Search` over its candidates alone, in a directory of the
worker's own, so that a base that diverges, a cohort too large for memory or a head that collapses
is dealt with as in any search. What it finds is committed as one result, and nothing of a worker
that dies before counts.
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
from headsearch.study.commands import End
from headsearch.study.events import Event, Noted, Scored
from headsearch.study.followers import follow
from headsearch.study.search import Search
from headsearch.study.setup import SearchSetup
from headsearch.text import duration, for_file_name
from headsearch.training.distributed import broadcast_object, receive_object

T = TypeVar("T")
Say: TypeAlias = Callable[[str], None]

FIRST_PAUSE_S, LONGEST_PAUSE_S, GROWTH = 1.0, 30.0, 1.5
"""Between looks at a queue in which nothing waits; each is varied by half, so that workers that
started together do not ask together."""
WEIGHTS_FOLDER = "first-weights"
FAILURES = 2
"""Failures in a row after which a worker ends: one may be the task's fault, two are the
machine's."""


class Stopped(Exception):  # noqa: N818 - it is no error
    """The worker was told to stop in the midst of a task."""


@dataclass(frozen=True)
class TakeCohort:
    """A worker's job: the search of a cohort begins, which has orders of its own."""


@dataclass(frozen=True)
class TakeSolo:
    """A worker's job: a solo run begins, that of this task."""

    payload: Mapping[str, Any]


@dataclass(frozen=True)
class Wait:
    """A worker's job: nothing is to be done for now. Who hears nothing for long gives up."""


@dataclass(frozen=True)
class Part:
    """A worker's job is over."""


class Worker:
    """Works at a shared study. Making one claims nothing.

    Args:
        study: which.
        prepared: what its cohorts need, as `fleet.prepare_as_submitted` made it ready.
        out: a folder of its own.
        name: what others see of it.

    Attributes:
        stop: once set, the task under way is given back, and no other is taken.
        done: tasks whose results it has committed.
    """

    def __init__(self, study: SharedStudy, prepared: SearchSetup, out: Path, name: str) -> None:
        self.study, self.prepared, self.out, self.name = study, prepared, out, name
        self.stop = threading.Event()
        self.done = 0
        self._failed = 0
        self._tasks: Tasks = study.tasks()
        self._rules = self._tasks.rules

    def run(self, say: Say = lambda line: None) -> None:
        """Works until nothing is left or it is told to stop.

        Of a job's processes the first does, and the others take part (`follow`).

        Args:
            say: called with a line about everything that happens. An error in it ends the worker,
                and the task under way is given back.

        Raises:
            UserError: a task cannot be done here, or the storage stays out of reach.
        """
        self._until_nothing_is_left(say)
        broadcast_object(Part())

    def follow(self) -> None:
        """Takes part in what the first process of the job does, to its end.

        Raises:
            UserError: another process has gone.
        """
        while True:
            match receive_object():
                case TakeCohort():
                    follow(self.prepared)
                case TakeSolo(payload):
                    setup = self.prepared.training.under(int(payload["seed"]))
                    head = self._head(payload["candidate"])
                    planned = solo_setup(setup, head, float(payload["lr"]))
                    with suppress(SoloDivergedError):  # the first process says so
                        SoloRun(planned.setup, planned.candidate).run()
                case Wait():
                    pass
                case Part():
                    return
                case word:
                    raise AssertionError(f"no order of a worker: {word}")

    def _until_nothing_is_left(self, say: Say) -> None:
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
        """What the storage says, which may be gone for a while."""
        try:
            return patiently(call, self._rules.grace)
        except OUT_OF_REACH as error:
            raise UserError(f"the storage is out of reach: {reason_of(error)}") from None

    def _work_at(self, claim: Claim, say: Say) -> None:
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
        except KeyboardInterrupt:
            self._give(claim.release, "its worker was told to stop")
            raise
        except Exception as error:
            self._give(claim.fail, f"{self.name}: {reason_of(error)}")
            self._failed += 1
            if self._failed == FAILURES or torchrun.count() > 1:  # others are in the midst of it
                raise
            say(f"{key} failed, and is left to others: {reason_of(error)}")
        else:
            self.done, self._failed = self.done + 1, 0
            say(f"{key} done in {duration(time.monotonic() - began)}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # of no use to whoever has the task next

    def _give(self, back: Callable[[str], None], reason: str) -> None:
        with suppress(TakenOverError, *OUT_OF_REACH):
            back(reason)

    def _commit(self, claim: Claim, result: Mapping[str, Any]) -> None:
        self._ask(lambda: claim.commit({**result, "worker": self.name}))

    def _check(self, pulse: Pulse) -> None:
        """Raises where a task is not to be gone on with."""
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
        """Searches to the end, or to where the base is beyond help, which is a result too."""

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
            # The other processes wait for the end, for this is a result too.
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
        except SoloDivergedError as error:  # it would anywhere, so this is a result too
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
