"""The driver's decisions, with an engine that follows a script: retries, losses, silence, stops."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from headsearch.cluster import driver as driving
from headsearch.cluster.driver import Driver, DriverEvent, Job, Note, attempt_folder
from headsearch.cluster.engine import Ended, Heard, Message, News
from headsearch.errors import UserError

BEGUN = {"kind": "begun", "machine": "a", "host": "box-a", "pid": 1}
DONE = {"kind": "done", "result": {"value": 1}}
FAILED = {"kind": "failed", "reason": "ValueError: no"}
STEP = {"kind": "step", "step": 5, "steps": 10}
SILENT, LOST, END = "silent", "lost", "end"
GRACE = 10.0


class ScriptedEngine:
    """An engine whose tasks say what a script says, one thing in each second of a made-up clock.

    Args:
        scripts: the scripts of a job's attempts, by the name of the job; the last one is repeated.
    """

    def __init__(self, scripts: Mapping[str, Sequence[Sequence[Any]]]) -> None:
        self.scripts, self.now = scripts, 0.0
        self.alive = {"a": "box-a", "b": "box-b"}
        self.orders: list[dict[str, Any]] = []
        self.avoided: list[tuple[str, ...]] = []
        self.cancelled: list[tuple[int, bool]] = []
        self._tasks: dict[int, list[Any]] = {}
        self._counts: dict[str, int] = {}

    def start(self, order: Message, avoid: Collection[str] = ()) -> int:
        name = order["name"]
        attempts = self.scripts[name]
        count = self._counts.get(name, 0)
        self._counts[name] = count + 1
        self.orders.append(dict(order))
        self.avoided.append(tuple(avoid))
        self._tasks[len(self.orders)] = list(attempts[min(count, len(attempts) - 1)])
        return len(self.orders)

    def news(self, seconds: float) -> list[News]:
        self.now += 1
        return list(self._next())

    def _next(self) -> Iterator[News]:
        for task, script in list(self._tasks.items()):
            match script[0] if script else END:
                case "silent":
                    pass
                case "lost":
                    del self._tasks[task]
                    yield Ended(task, "its process died")
                case "end":
                    del self._tasks[task]
                    yield Ended(task)
                case message:
                    script.pop(0)
                    yield Heard(task, message)

    def cancel(self, task: int, *, force: bool) -> None:
        self.cancelled.append((task, force))
        script = self._tasks.get(task, [SILENT])
        if not force and SILENT not in script:
            self._tasks[task] = [DONE, END] if script[:1] == [DONE] else [END]

    def wake(self, task: int) -> None:
        """Lets a frozen task go on."""
        self._tasks[task].remove(SILENT)

    def machines(self) -> Mapping[str, str]:
        return self.alive


class Outcome:
    """A driver with what it accepted and said."""

    def __init__(self, engine: ScriptedEngine, tmp_path: Path) -> None:
        self.engine, self.stop = engine, threading.Event()
        self.accepted: list[tuple[str, int]] = []
        self.lines: list[str] = []
        self.jobs = [
            Job(name, {"name": name}, tmp_path / "attempts" / name) for name in engine.scripts
        ]
        self.driver = Driver(engine, GRACE, self._accept, self._note, lambda: engine.now)

    def _accept(self, job: Job, result: Message, attempt: Path) -> None:
        self.accepted.append((job.name, int(attempt.name.rpartition(".")[2])))

    def _note(self, event: DriverEvent) -> None:
        if isinstance(event, Note):
            self.lines.append(event.text)

    def run(self) -> Outcome:
        self.driver.run(self.jobs, self.stop)
        return self

    @property
    def states(self) -> list[str]:
        return [job.state for job in self.jobs]


def ran(tmp_path: Path, **scripts: Sequence[Sequence[Any]]) -> Outcome:
    return Outcome(ScriptedEngine(scripts), tmp_path).run()


def test_every_job_has_one_result_and_a_folder_for_each_attempt(tmp_path: Path) -> None:
    outcome = ran(tmp_path, one=[[BEGUN, STEP, DONE]], two=[[BEGUN, DONE]])
    assert sorted(outcome.accepted) == [("one", 1), ("two", 1)]
    assert outcome.states == ["done", "done"]
    folders = [Path(order["folder"]) for order in outcome.engine.orders]
    assert folders == [attempt_folder(job.folder, 1) for job in outcome.jobs]
    assert all(folder.is_dir() for folder in folders)
    assert outcome.engine.cancelled == []


def test_a_job_that_always_fails_is_set_aside_with_its_reason_and_the_others_finish(
    tmp_path: Path,
) -> None:
    outcome = ran(tmp_path, bad=[[BEGUN, FAILED]], good=[[BEGUN, STEP, DONE]])
    bad, good = outcome.jobs
    assert (bad.state, bad.attempts, bad.failures) == ("set aside", driving.FAILURES, 3)
    assert bad.reason == "failed: ValueError: no"
    assert good.state == "done"
    assert "bad, attempt 1 on box-a, failed: ValueError: no" in outcome.lines
    assert "bad is set aside after 3 attempts" in outcome.lines


def test_lost_processes_and_machines_do_not_count_as_failures(tmp_path: Path) -> None:
    lost = [[BEGUN, LOST]] * 10
    outcome = ran(tmp_path, job=[*lost, [BEGUN, FAILED], [BEGUN, FAILED], [BEGUN, DONE]])
    assert outcome.accepted == [("job", 13)]


def test_a_job_that_kills_its_machines_does_not_do_so_for_ever(tmp_path: Path) -> None:
    outcome = ran(tmp_path, job=[[BEGUN, LOST]])
    assert (outcome.states, outcome.jobs[0].losses) == (["set aside"], driving.LOSSES)
    assert outcome.jobs[0].reason == "was lost: its process died"


def test_a_task_that_ends_without_a_result_is_lost(tmp_path: Path) -> None:
    assert ran(tmp_path, job=[[BEGUN, END], [BEGUN, DONE]]).accepted == [("job", 2)]


def test_silence_beyond_the_grace_ends_an_attempt_and_what_it_says_later_does_not_count(
    tmp_path: Path,
) -> None:
    engine = ScriptedEngine({"job": [[BEGUN, STEP, SILENT, DONE], [BEGUN, *[STEP] * 30, DONE]]})
    outcome = Outcome(engine, tmp_path)
    heard: list[float] = []

    def note(event: DriverEvent) -> None:
        if isinstance(event, Note):
            outcome.lines.append(event.text)
            heard.append(engine.now)
            engine.wake(1)  # the woken process says that it is done

    outcome.driver.notify = note
    outcome.run()
    assert outcome.lines == [
        "job, attempt 1 on box-a, was lost: no sign of life for 10 s (--grace)"
    ]
    assert heard == [2 + GRACE + 1]
    assert engine.cancelled == [(1, True)]
    assert outcome.accepted == [("job", 2)]


def test_a_task_that_waits_for_a_machine_is_not_silent(tmp_path: Path) -> None:
    engine = ScriptedEngine({"job": [[SILENT, BEGUN, DONE]]})
    outcome = Outcome(engine, tmp_path)
    looks = iter(range(1000))

    def note(event: DriverEvent) -> None:
        if next(looks) == 50:
            engine.wake(1)

    outcome.driver.notify = note
    assert outcome.run().accepted == [("job", 1)]
    assert engine.now > 3 * GRACE


def test_a_stop_lets_tasks_end_and_counts_a_result_that_comes_meanwhile(tmp_path: Path) -> None:
    engine = ScriptedEngine({"short": [[BEGUN, STEP, DONE]], "long": [[BEGUN, *[STEP] * 100]]})
    outcome = Outcome(engine, tmp_path)

    def note(event: DriverEvent) -> None:
        if engine.now == 2:
            outcome.stop.set()

    outcome.driver.notify = note
    assert outcome.run().states == ["done", "waiting"]
    assert outcome.accepted == [("short", 1)]
    assert engine.cancelled == [(1, False), (2, False)]


def test_a_task_that_is_frozen_when_the_driver_stops_is_ended_by_force(tmp_path: Path) -> None:
    engine = ScriptedEngine({"job": [[BEGUN, SILENT]]})
    outcome = Outcome(engine, tmp_path)

    def note(event: DriverEvent) -> None:
        outcome.stop.set()

    outcome.driver.notify = note
    outcome.run()
    assert engine.cancelled == [(1, False), (1, True)]
    assert engine.now <= driving.STOPPING_S + 5


def test_a_second_ctrl_c_ends_tasks_at_once(tmp_path: Path) -> None:
    engine = ScriptedEngine({"job": [[BEGUN, *[STEP] * 100]]})
    outcome = Outcome(engine, tmp_path)

    def note(event: DriverEvent) -> None:
        raise KeyboardInterrupt

    outcome.driver.notify = note
    with pytest.raises(KeyboardInterrupt):
        outcome.run()
    assert (1, True) in engine.cancelled
    assert engine.now <= 2


def test_a_machine_that_refuses_is_avoided_by_all_jobs(tmp_path: Path) -> None:
    refused = {"kind": "refused", "reason": "photos: no such folder"}
    outcome = ran(tmp_path, job=[[BEGUN, refused], [BEGUN | {"machine": "b"}, DONE]])
    assert outcome.accepted == [("job", 2)]
    assert outcome.engine.avoided == [(), ("a",)]
    assert outcome.jobs[0].failures == 0


def test_if_every_machine_refuses_the_reason_is_the_error(tmp_path: Path) -> None:
    refused = {"kind": "refused", "reason": "photos: no such folder"}
    with pytest.raises(UserError, match="box-a: photos: no such folder"):
        ran(tmp_path, job=[[BEGUN, refused], [BEGUN | {"machine": "b"}, refused]])


def test_attempts_of_an_earlier_driver_keep_their_folders(tmp_path: Path) -> None:
    (tmp_path / "attempts" / "job.7").mkdir(parents=True)
    (tmp_path / "attempts" / "job.copy").mkdir()
    assert ran(tmp_path, job=[[BEGUN, DONE]]).accepted == [("job", 8)]


def test_no_more_tasks_than_the_engine_should_hold_are_given_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driving, "IN_FLIGHT", 3)
    engine = ScriptedEngine({f"job{i}": [[BEGUN, DONE]] for i in range(8)})
    outcome = Outcome(engine, tmp_path)
    started: list[int] = []
    outcome.driver.notify = lambda event: started.append(len(engine.orders))
    outcome.run()
    assert started[0] == 3
    assert outcome.states == ["done"] * 8
