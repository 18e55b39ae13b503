"""Task queue: each task is done exactly once, whichever worker dies or returns, and when."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.exceptions import DuplicatedStudyError, StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState

from headsearch.cluster.engine.chunked_attributes import PIECE, pieces, whole
from headsearch.cluster.engine.claims import Claim, Rules, TakenOverError, Task
from headsearch.cluster.engine.queue import Tasks
from headsearch.runs.storage import open_storage, patiently

optuna.logging.set_verbosity(optuna.logging.WARNING)

RULES = Rules(heartbeat=10, grace=60, attempts=3)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Place:
    """A storage with a queue, and observers that share one manual clock."""

    storage: BaseStorage = field(default_factory=InMemoryStorage)
    clock: Clock = field(default_factory=Clock)

    def queue(self, *keys: str, rules: Rules = RULES) -> Tasks:
        tasks = [Task(key, "cohort", {"of": key}) for key in keys]
        return Tasks.create(self.storage, "study", tasks, rules, **self.how)

    def observer(self) -> Tasks:
        return Tasks(self.storage, "study", **self.how)

    @property
    def how(self) -> dict[str, Any]:
        return {"clock": self.clock, "wall": self.clock, "seed": 0}

    def silence(self, observer: Tasks, seconds: float) -> list[str]:
        """Advances the clock; the observer looks every 10 seconds. Returns what it reports."""
        news = observer.look()
        for _ in range(math.ceil(seconds / 10)):
            self.clock.now += 10
            news += observer.look()
        return news


@pytest.fixture
def place() -> Place:
    return Place()


def claimed(tasks: Tasks, worker: str) -> Claim:
    claim = tasks.claim(worker)
    assert claim is not None
    return claim


def states(tasks: Tasks) -> dict[str, str]:
    return {standing.task.key: standing.state for standing in tasks.standing()}


def test_tasks_are_handed_out_in_order_and_their_results_come_back_in_it(place: Place) -> None:
    tasks = place.queue("a", "b")
    first, second = claimed(tasks, "one"), claimed(tasks, "two")
    assert (first.task, second.task.key) == (Task("a", "cohort", {"of": "a"}), "b")
    assert tasks.claim("three") is None
    second.commit({"score": [1.5, math.inf]})
    assert tasks.unfinished() == 1
    first.commit("done")
    assert place.observer().results() == {"a": "done", "b": {"score": [1.5, math.inf]}}
    assert list(tasks.results("cohort")) == ["a", "b"]
    assert tasks.results("solo") == {}
    assert tasks.unfinished() == 0


def test_a_claim_is_one_workers_alone_even_if_all_saw_it_waiting(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = place.queue("a", "b", "c")
    seen = tasks._read((TrialState.WAITING,))
    others = [place.observer() for _ in range(3)]
    for other in others:  # each first reads the queue as it was before any claim
        now, old = other._read, [list(seen)]
        monkeypatch.setattr(
            other, "_read",
            lambda states=None, now=now, old=old: old.pop() if states and old else now(states),
        )  # fmt: skip
    found = [claimed(other, f"worker {i}").task.key for i, other in enumerate(others)]
    assert sorted(found) == ["a", "b", "c"]


def test_a_silent_worker_loses_its_task_and_one_that_beats_keeps_it(place: Place) -> None:
    tasks = place.queue("a", "b")
    dead, alive = claimed(tasks, "dead"), claimed(tasks, "alive")
    watcher, news = place.observer(), []
    for _ in range(12):
        news += watcher.look()
        place.clock.now += 10
        alive.beat()
    assert news == [
        "dead fell silent for 60 s: a is taken back", "a waits for attempt 2",
    ]  # fmt: skip
    again = claimed(watcher, "other")
    assert (again.task.key, again.task.payload, again.attempt) == ("a", {"of": "a"}, 2)
    with pytest.raises(TakenOverError, match="a was taken from dead: dead fell silent"):
        dead.beat()
    again.commit(2)
    alive.commit(1)
    with pytest.raises(TakenOverError):
        dead.commit("of the dead")
    assert watcher.results() == {"a": 2, "b": 1}


def test_a_worker_that_died_before_its_first_beat_is_noticed_too(place: Place) -> None:
    tasks = place.queue("a")
    [waiting] = tasks._read((TrialState.WAITING,))
    place.storage.set_trial_state_values(waiting._trial_id, TrialState.RUNNING)  # and dies
    assert "a waits for attempt 2" in place.silence(tasks, 60)
    assert claimed(tasks, "other").attempt == 2


def test_an_observer_that_was_away_takes_nothing_back_at_once(place: Place) -> None:
    """While the storage is unreachable, no worker can send a beat."""
    tasks = place.queue("a")
    claim = claimed(tasks, "worker")
    claim.beat()
    tasks.look()
    place.clock.now += 3600
    assert tasks.look() == []
    place.clock.now += 20
    claim.beat()
    assert place.silence(tasks, 50) == []
    claim.commit("fine")


def test_clocks_of_machines_are_never_compared(place: Place) -> None:
    tasks = place.queue("a")
    early = Tasks(place.storage, "study", clock=lambda: -1e9, wall=lambda: 5.0)
    claim = claimed(early, "of another time")
    claim.beat()
    assert place.silence(tasks, 50) == []
    claim.beat()
    assert place.silence(tasks, 50) == []
    [standing] = tasks.standing()
    assert (standing.silent, standing.beat_at) == (50.0, 5.0)


def test_of_two_who_queue_a_task_again_one_is_enough(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = place.queue("a")
    claimed(tasks, "dead")
    one, two = place.observer(), place.observer()
    place.silence(one, 50)
    place.clock.now -= 50
    place.silence(two, 50)
    place.clock.now += 10
    # Each reads before the other writes.
    stale, true_read = place.observer()._read(), two._read
    assert len(one.look()) == 2
    ended = [t for t in one._read() if t.state == TrialState.FAIL]
    monkeypatch.setattr(
        two, "_read", lambda states=None: [t for t in stale if states is None or t.state in states]
    )
    assert two.look() == []  # the trial was ended already
    two.queue_again({"a": ended})
    monkeypatch.setattr(two, "_read", true_read)
    assert sum(t.state == TrialState.WAITING for t in two._read()) == 2
    first = claimed(one, "first")
    assert two.claim("second") is None
    first.commit("once")
    assert two.claim("second") is None
    assert one.results() == {"a": "once"}
    assert states(one) == {"a": "done"}


def test_a_task_whose_taker_back_died_in_between_is_queued_by_another(place: Place) -> None:
    tasks = place.queue("a", "b")
    claim = claimed(tasks, "dead")
    assert tasks.end(claim._trial, "dead fell silent", counts=True)  # and dies
    assert states(tasks) == {"a": "waiting", "b": "waiting"}
    assert place.observer().look() == ["a waits for attempt 2"]
    assert place.observer().look() == []


def test_lost_tasks_are_retried_on_demand(place: Place) -> None:
    tasks = place.queue("a", "b", rules=replace(RULES, attempts=1))
    claimed(tasks, "one").fail("it burns")
    assert states(tasks) == {"a": "lost", "b": "waiting"}
    assert tasks.unfinished() == 1
    assert place.observer().retry_lost() == ["a was lost, and is tried again"]
    assert tasks.retry_lost() == []
    assert tasks.unfinished() == 2
    for _ in range(2):
        claimed(tasks, "two").commit("done")
    assert tasks.unfinished() == 0
    assert tasks.results() == {"a": "done", "b": "done"}


def test_a_task_that_fails_too_often_is_lost_with_its_reason_until_it_is_queued_anew(
    place: Place,
) -> None:
    tasks = place.queue("a", "b")
    for attempt in (1, 2, 3):
        claim = next(c for c in iter(lambda: tasks.claim("w"), None) if c.task.key == "a")
        assert claim.attempt == attempt
        claim.fail(f"fault {attempt}")
        tasks.look()
    assert next((s.state, s.reason) for s in tasks.standing()) == ("lost", "fault 3")
    assert tasks.unfinished() == 1
    assert tasks.add([Task("a", "cohort", "new"), Task("b", "cohort")]) == 1
    claim = claimed(tasks, "w")
    assert (claim.attempt, claim.task.payload) == (1, "new")
    claim.fail("again")
    assert claimed(tasks, "w").attempt == 2


def test_what_is_given_back_counts_as_no_attempt(place: Place) -> None:
    tasks = place.queue("a")
    for _ in range(5):
        claimed(tasks, "polite").release("stopped by SIGTERM")
    [standing] = tasks.standing()
    assert (standing.state, standing.attempt) == ("waiting", 1)
    assert standing.reason == "stopped by SIGTERM"
    assert claimed(tasks, "next").attempt == 1


def test_a_zombie_can_neither_give_back_nor_fail_what_is_no_longer_its_own(place: Place) -> None:
    tasks = place.queue("a")
    zombie = claimed(tasks, "zombie")
    place.silence(tasks, 60)
    heir = claimed(tasks, "heir")
    for act in (zombie.release, zombie.fail):
        with pytest.raises(TakenOverError):
            act("too late")
    assert states(tasks) == {"a": "running"}
    heir.commit("mine")
    assert tasks.results() == {"a": "mine"}


def test_a_commit_whose_answer_was_lost_may_be_said_again(place: Place) -> None:
    claim = claimed(place.queue("a"), "worker")
    claim.commit("result")
    claim.commit("result")
    assert place.observer().results() == {"a": "result"}


def test_half_a_result_is_none(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker dies after it has written the result and before it commits it."""
    tasks = place.queue("a")
    claim = claimed(tasks, "dies")
    monkeypatch.setattr(
        place.storage, "set_trial_state_values", lambda *_: pytest.fail("killed here")
    )
    with pytest.raises(pytest.fail.Exception):
        claim.commit("half")
    monkeypatch.undo()
    assert tasks.results() == {}
    place.silence(tasks, 60)
    claimed(tasks, "heir").commit("whole")
    assert tasks.results() == {"a": "whole"}


def test_large_values_fit_into_what_databases_hold() -> None:
    value = [{"name": f'Größe "{i}"', "x": hash(i * 0.37) / 7, "nan": None} for i in range(9000)]
    written = dict(pieces("result", value))
    assert int(written["result"]) > 1
    assert max(len(json.dumps(piece)) for piece in written.values()) <= PIECE + 2
    assert whole("result", written) == value
    assert math.isnan(whole("x", dict(pieces("x", math.nan))))
    with pytest.raises(ValueError, match="result"):
        whole("result", {"result": 1, "result.0": "AAAA"})


def test_a_queue_is_made_once(place: Place) -> None:
    tasks = place.queue("a")
    with pytest.raises(DuplicatedStudyError):
        place.queue("a")
    assert tasks.add([Task("a", "cohort"), Task("s", "solo")]) == 1
    assert [s.task.key for s in place.observer().standing()] == ["a", "s"]
    with pytest.raises(ValueError, match="grace"):
        Rules(heartbeat=30, grace=60)
    with pytest.raises(KeyError):
        Tasks(place.storage, "another study")


class KilledError(Exception):
    """Simulates that a worker's process is killed between two calls of the storage."""


class Mortal:
    """A storage whose worker is killed after a given number of write calls."""

    def __init__(self, storage: BaseStorage, calls: int) -> None:
        self._storage, self._left = storage, calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        if not name.startswith(("set_", "create_")):
            return found

        def mortal(*arguments: Any) -> Any:
            if self._left == 0:
                raise KilledError
            self._left -= 1
            return found(*arguments)

        return mortal


STEP = st.tuples(
    st.integers(0, 3),  # which worker
    st.sampled_from(["work", "commit", "beat", "release", "look", "look", "fail"]),
    st.integers(0, 9),  # write calls until it is killed; 8 and 9: never
)


@settings(max_examples=300, deadline=None)
@given(steps=st.lists(STEP, max_size=60))
def test_whatever_happens_each_task_is_done_once_and_none_is_lost(
    steps: list[tuple[int, str, int]],
) -> None:
    """Workers claim, beat, give back, are killed between any two calls, and return as zombies."""
    place = Place()
    queue = place.queue("a", "b", "c", rules=Rules(heartbeat=10, grace=60, attempts=1000))
    workers = [place.observer() for _ in range(4)]
    claims: list[Claim | None] = [None] * 4
    committed: dict[str, list[str]] = {}
    for number, act, lives in steps:
        place.clock.now += 10
        worker, claim = workers[number], claims[number]
        worker.storage = Mortal(place.storage, lives) if lives < 8 else place.storage  # type: ignore[assignment]
        try:
            if act == "look":
                worker.look()
            elif act == "work" and claim is None:
                claims[number] = worker.claim(f"worker {number}")
            elif claim is not None and act == "beat":
                claim.beat()
            elif claim is not None and act == "commit":
                claims[number] = None
                result = f"{claim.task.key} by {number}"
                claim.commit(result)
                committed.setdefault(claim.task.key, []).append(result)
            elif claim is not None and act in ("release", "fail"):
                claims[number] = None
                getattr(claim, act)("given up")
        except KilledError:
            pass  # The worker may return as a zombie that still believes it holds its claim.
        except TakenOverError:
            claims[number] = None
    assert all(len(results) == 1 for results in committed.values())
    # A worker that does not die finishes what is left.
    last = place.observer()
    for _ in range(40):
        place.silence(last, 60)
        claim = last.claim("last")
        if claim is not None:
            claim.commit(f"{claim.task.key} by last")
    assert set(states(queue).values()) == {"done"}
    results = queue.results()
    assert list(results) == ["a", "b", "c"]
    for key, result in results.items():
        assert committed.get(key, [result]) == [result]


def test_a_storage_that_fails_for_a_while_is_asked_again_and_one_that_stays_away_is_not() -> None:
    clock, answers = Clock(), iter([StorageInternalError("gone"), OSError("stale"), "here"])

    def pause(seconds: float) -> None:
        clock.now += seconds

    def ask() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert patiently(ask, 60, clock=clock, pause=pause) == "here"

    def never() -> None:
        raise StorageInternalError("gone")

    began = clock.now
    with pytest.raises(StorageInternalError):
        patiently(never, 60, clock=clock, pause=pause)
    assert clock.now == pytest.approx(began + 60)


def test_the_same_on_a_journal_file(tmp_path: Path) -> None:
    """A journal on a shared file system, opened separately by each worker, as on two machines."""
    url, clock = f"journal://{tmp_path / 'journal.log'}", Clock()
    how = {"clock": clock, "wall": clock}
    tasks = Tasks.create(open_storage(url), "study", [Task("a", "k"), Task("b", "k")], RULES, **how)
    other = Tasks(open_storage(url), "study", **how)
    dead, alive = claimed(other, "dead"), claimed(tasks, "alive")
    for _ in range(8):
        tasks.look()
        clock.now += 10
        alive.beat()
    with pytest.raises(TakenOverError):
        dead.commit("late")
    claimed(tasks, "alive").commit("in time")
    alive.commit("first")
    assert other.results() == {"a": "in time", "b": "first"}
