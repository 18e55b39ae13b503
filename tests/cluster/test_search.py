"""A search whose cohorts are tasks: the tables of `run`, in any order and after any fault."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from headsearch.cluster import jobs
from headsearch.cluster import search as engine_search
from headsearch.cluster.driver import DriverEvent, Note
from headsearch.cluster.engine import EngineGoneError, Message
from headsearch.cluster.plan import PLAN, WEIGHTS
from headsearch.cluster.search import ATTEMPTS, EngineSearch
from headsearch.data.dense import built_in
from headsearch.errors import UserError
from headsearch.report.content import content
from headsearch.runs.run import is_complete, read_run
from headsearch.runs.snapshot import read_record
from helpers.inline_engine import InlineEngine, on_engine, same, searched, trials_of
from helpers.tiny_search import SAMPLED

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The search in one process."""
    return searched(tmp_path_factory.mktemp("one"))


def lines_of(search: EngineSearch) -> list[str]:
    """Runs a search; what it said."""
    lines: list[str] = []

    def note(event: DriverEvent) -> None:
        if isinstance(event, Note):
            lines.append(event.text)

    search.run(note)
    return lines


def test_the_tables_are_those_of_run_whatever_the_order(one: Path, tmp_path: Path) -> None:
    search = on_engine(tmp_path, "run", InlineEngine(last_first=True))
    lines_of(search)
    same(search.run_directory, one)
    assert is_complete(search.run_directory)
    assert not (search.run_directory / ATTEMPTS).exists()
    costs = dict(content(read_run(search.run_directory)).costs)
    assert costs["Cohorts trained on"] == f"{socket.gethostname()}: 1, 2"


def test_a_lost_attempt_goes_on_from_its_snapshot(one: Path, tmp_path: Path) -> None:
    engine = InlineEngine()
    lost = []

    def heard(message: Message) -> None:
        if message["kind"] == "rung" and message["rung"] == 1 and len(lost) < 2:
            lost.append(engine.orders)
            engine.lose()

    engine.heard = heard
    search = on_engine(tmp_path, "run", engine)
    lines = lines_of(search)
    same(search.run_directory, one)
    assert len(engine.orders) == 2 + 2
    assert any("goes on at step" in line for line in lines), lines


def test_a_search_that_is_stopped_goes_on_where_it_was(one: Path, tmp_path: Path) -> None:
    def stop(message: Message) -> None:
        if message["kind"] == "step" and message["step"] == 4:
            search.stop.set()

    search = on_engine(tmp_path, "run", InlineEngine(heard=stop))
    lines_of(search)
    assert not search.complete
    run = search.run_directory
    assert read_run(run).facts["status"] == "interrupted"
    assert read_record(run / ATTEMPTS / "cohort-1.1" / "run") is not None
    engine = InlineEngine()
    resumed = on_engine(tmp_path, "run", engine)
    lines_of(resumed)
    same(run, one)
    assert is_complete(run)
    assert engine.orders[0]["folder"].endswith("cohort-1.2")


def test_what_is_done_is_not_done_again(one: Path, tmp_path: Path) -> None:
    class DeadError(Exception):
        """The driver is killed."""

    done: list[Message] = []

    def heard(message: Message) -> None:
        if message["kind"] == "done":
            done.append(message)
        if done and message["kind"] == "begun":
            raise DeadError

    search = on_engine(tmp_path, "run", InlineEngine(heard=heard))
    with pytest.raises(DeadError):
        search.run()
    engine = InlineEngine()
    lines_of(on_engine(tmp_path, "run", engine))
    assert [order["cohort"] for order in engine.orders] == [1]
    same(search.run_directory, one)


def test_a_cohort_that_always_raises_is_set_aside_and_can_be_tried_again(
    one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = jobs.cohort_search

    def broken(prepared: Any, candidates: Any, directory: Any, **options: Any) -> Any:
        if candidates[0].name.startswith("convnext"):
            raise RuntimeError("a broken kernel")
        return train(prepared, candidates, directory, **options)

    monkeypatch.setattr(jobs, "cohort_search", broken)
    search = on_engine(tmp_path, "run", InlineEngine())
    lines = lines_of(search)
    run = search.run_directory
    assert search.set_aside == ("cohort 2 failed: RuntimeError: a broken kernel",)
    assert "cohort 2 is set aside after 3 attempts" in lines
    ranking = read_run(run).ranking.set_index("candidate")
    assert ranking.loc["convnext-d1-k3", "state"] == "failed"
    assert ranking.loc["convnext-d1-k3", "reason"] == (
        "its cohort failed: RuntimeError: a broken kernel"
    )
    assert (ranking["state"] == "failed").sum() == 2
    assert "a broken kernel" in (run / ATTEMPTS / "cohort-2.3" / "error.txt").read_text()
    assert not is_complete(run)
    monkeypatch.setattr(jobs, "cohort_search", train)
    lines_of(on_engine(tmp_path, "run", InlineEngine()))
    same(run, one)


def test_a_sampler_learns_between_generations_whatever_the_order(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"space": SAMPLED, "trials": 3, "cohort": 1, "rungs": 1, "epochs": 1}
    learned = {}
    for name, last_first in (("first", False), ("last", True)):
        search = on_engine(
            tmp_path, name, InlineEngine(last_first=last_first), generation=2, **changes
        )
        assert any("tpe learns after 2 cohorts" in note for note in search.notes)
        lines_of(search)
        learned[name] = search.run_directory
    same(learned["first"], learned["last"])
    # A generation of one cohort is what one process does.
    alone = on_engine(tmp_path, "alone", InlineEngine(), generation=1, **changes)
    lines_of(alone)
    same(alone.run_directory, searched(tmp_path, "one", **changes))


def test_a_search_that_dies_while_it_draws_draws_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"space": SAMPLED, "trials": 4, "rungs": 1, "epochs": 1}
    lines_of(on_engine(tmp_path, "whole", InlineEngine(), generation=2, **changes))
    search = on_engine(tmp_path, "cut", InlineEngine(), generation=2, **changes)
    search._draw(2)
    plan = json.loads((search.run_directory / PLAN).read_text())
    (search.run_directory / PLAN).write_text(json.dumps({**plan, "cohorts": []}))
    search._lock.release()
    lines_of(on_engine(tmp_path, "cut", InlineEngine(), generation=2, **changes))
    same(tmp_path / "cut", tmp_path / "whole")


def test_seeds_and_a_cohort_that_does_not_fit_into_memory_are_as_in_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headsearch.study.cohort import Cohort

    set_up = Cohort.set_up

    def small(self: Cohort, setup: Any, entries: Any, lr: float) -> None:
        entries = list(entries)
        if len(entries) > 1 and "convnext" in {entry.candidate.family for entry in entries}:
            raise torch.OutOfMemoryError("CUDA out of memory")
        set_up(self, setup, entries, lr)

    monkeypatch.setattr(Cohort, "set_up", small)
    changes: dict[str, Any] = {"seeds": 2, "epochs": 1, "rungs": 1}
    search = on_engine(tmp_path, "run", InlineEngine(last_first=True), **changes)
    lines = lines_of(search)
    assert any("cohort 1 does not fit into memory" in line for line in lines), lines
    same(search.run_directory, searched(tmp_path, **changes))
    assert len(read_run(search.run_directory).facts["splits"]) == 1


def test_a_base_beyond_help_is_a_result_of_its_cohort_and_others_go_on(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"lr": 90.0, "epochs": 8, "rungs": 1, "objective": "barlow"}
    search = on_engine(tmp_path, "run", InlineEngine(), coupling="joint", cohort=4, **changes)
    lines_of(search)
    run = read_run(search.run_directory)
    assert search.complete
    assert len(run.ranking) == 4
    assert run.facts["lowered"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ("data", "not the data that the run began with: training images"),
        ("weights", "not the first weights that the run began with"),
        ("missing weights", "cannot be read"),
        ("version", "torch is .* here, and 1.0 where the run began: install the same version"),
        ("space", "not the space that the run began with"),
        ("base", "test_vit is built differently here"),
        ("plan", "not found here; the machines must share its file system"),
    ],
)
def test_a_machine_that_differs_refuses_in_one_line(
    tmp_path: Path, changed: str, words: str
) -> None:
    def change(message: Message) -> None:
        if message["kind"] != "begun":
            return
        run = search.run_directory
        plan = json.loads((run / PLAN).read_text())
        settings = plan["settings"]
        [weights] = (run / WEIGHTS).iterdir()
        if changed == "data":
            plan["images"]["sets"]["training images"]["pixels"][0] += 9
        elif changed == "weights":
            weights.write_bytes(b"others")
        elif changed == "missing weights":
            weights.unlink()
        elif changed == "version":
            settings["versions"]["torch"] = "1.0"
        elif changed == "space":
            settings["space_content"]["families"]["attention"]["depth"] = 3
        elif changed == "base":
            settings["base_arguments"]["patch_size"] = 8
        (run / PLAN).write_text(json.dumps(plan))
        if changed == "plan":
            (run / PLAN).unlink()

    search = on_engine(tmp_path, "run", InlineEngine(heard=change), epochs=1, rungs=1)
    with pytest.raises(UserError, match=words) as refused:
        search.run()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pruner": "median"}, "--pruner median judges by what has ended before"),
        ({"log": "tensorboard"}, "--log tensorboard works in one process"),
        ({"processes": 3}, "--processes 3 needs a --batch-size that is a multiple of it"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_and_leaves_nothing(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        on_engine(tmp_path, "run", InlineEngine(), **changes)
    assert not (tmp_path / "run").exists()


def test_a_run_of_one_process_and_one_of_an_engine_are_not_mixed_up(
    one: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="was begun in one process: resume it without --engine"):
        on_engine(one.parent, "one", InlineEngine())
    search = on_engine(tmp_path, "run", InlineEngine(), epochs=1, rungs=1)
    search._lock.release()
    with pytest.raises(UserError, match="epochs has changed since the run began"):
        on_engine(tmp_path, "run", InlineEngine(), epochs=2, rungs=1)


def test_trials_are_told_to_the_study_as_cohorts_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Written at each end of a cohort: on a fast machine a cohort takes less than the interval.
    monkeypatch.setattr(engine_search, "SAVED_EVERY_S", -1.0)
    states: list[list[str]] = []

    def heard(message: Message) -> None:
        if message["kind"] == "begun":
            states.append([trial["state"].name for trial in trials_of(search.run_directory)])

    search = on_engine(tmp_path, "run", InlineEngine(heard=heard), epochs=1, rungs=1)
    lines_of(search)
    assert states[0] == ["RUNNING"] * 4
    assert states[-1][:2] != ["RUNNING"] * 2


def test_an_engine_that_is_gone_says_how_to_go_on(one: Path, tmp_path: Path) -> None:
    def gone(message: Message) -> None:
        if message["kind"] == "rung":
            raise EngineGoneError("the head does not answer any more")

    search = on_engine(tmp_path, "run", InlineEngine(heard=gone))
    words = f"any more: start it again, then headsearch resume {search.run_directory}; what is"
    with pytest.raises(UserError, match=words):
        search.run()
    lines_of(on_engine(tmp_path, "run", InlineEngine()))
    same(search.run_directory, one)


def test_dense_scores_of_several_cohorts_are_those_of_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(built_in, "TRAIN_IMAGES", 20)
    monkeypatch.setattr(built_in, "EVALUATION_IMAGES", 40)
    changes: dict[str, Any] = {"dense_data": "scenes-things", "epochs": 1, "rungs": 1}
    search = on_engine(tmp_path, "run", InlineEngine(last_first=True), **changes)
    lines_of(search)
    alone = searched(tmp_path, **changes)
    same(search.run_directory, alone)
    assert (search.run_directory / "dense.csv").read_bytes() == (alone / "dense.csv").read_bytes()
