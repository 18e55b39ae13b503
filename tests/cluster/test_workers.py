"""A search over many machines, step by step: what is refused, given back, taken over, merged."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import yaml
from optuna.exceptions import StorageInternalError
from optuna.storages import InMemoryStorage, JournalStorage

from headsearch.cluster.engine.claims import Rules, Task
from headsearch.cluster.engine.queue import Tasks
from headsearch.cluster.shared_study import COHORT, open_study, prepare_as_submitted
from headsearch.cluster.worker import Worker
from headsearch.config.settings import resolve
from headsearch.errors import UserError
from headsearch.pretraining.run import Pretraining
from headsearch.pretraining.setup import prepare_pretraining
from headsearch.runs.run import read_run
from headsearch.runs.storage import open_storage
from headsearch.runs.storage_url import VARIABLE, masked, unmasked
from headsearch.study.resuming import resumed_search
from headsearch.study.setup import prepare, settings_of
from helpers.command_line import in_process
from helpers.stepwise import stepwise
from helpers.tiny_fleet import (
    PATIENT,
    SAMPLED,
    collected,
    new_worker,
    same,
    searched,
    settings,
    submitted,
)

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"journal://{tmp_path / 'journal.log'}"


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A study that one worker has done and that was collected: its folder, and its storage."""
    folder = tmp_path_factory.mktemp("one")
    url = f"journal://{folder / 'journal.log'}"
    submitted(folder, url, seeds=2, coupling="observe", epochs=2, rungs=2)
    lines = list(stepwise(new_worker(folder, url, "alone").run))
    assert lines[-1].startswith("cohort 4 done")
    collected(folder, url)
    return folder, url


def flags(folder: Path, **changes: Any) -> list[str]:
    given = settings(folder, **changes).items()
    return [part for name, value in given for part in (f"--{name.replace('_', '-')}", str(value))]


def refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> str:
    """The one line with which a command refuses."""
    code, _, error = in_process(capsys, monkeypatch, *arguments)
    assert code == 2
    assert error.count("\n") == 1
    return error


def test_one_worker_comes_to_what_run_comes_to_under_several_seeds_too(
    one: tuple[Path, str],
) -> None:
    folder, _ = one
    changes = {"seeds": 2, "coupling": "observe", "epochs": 2, "rungs": 2}
    same(folder / "collected", searched(folder, **changes))


def test_a_sampled_study_is_the_same_whoever_takes_what(tmp_path: Path, url: str) -> None:
    changes: dict[str, Any] = {"space": SAMPLED, "trials": 6, "cohort": 2, "rungs": 1, "epochs": 1}
    submitted(tmp_path, url, **changes)
    other = tmp_path / "other"
    other.mkdir()
    submitted(other, f"journal://{other / 'journal.log'}", **changes)
    list(stepwise(new_worker(tmp_path, url, "alone").run))
    url_of_other = f"journal://{other / 'journal.log'}"
    workers = [new_worker(other, url_of_other, f"worker {i}") for i in range(2)]
    second = stepwise(workers[1].run)
    assert "cohort 1 claimed" in next(second)  # and waits
    first = stepwise(workers[0].run)
    for line in first:
        if line.startswith("cohort 3 done"):
            break
    list(second)
    first.close()
    same(collected(tmp_path, url), collected(other, url_of_other))


def test_a_worker_that_is_told_to_stop_gives_its_cohort_back_at_once(
    tmp_path: Path, url: str
) -> None:
    submitted(tmp_path, url, epochs=1, rungs=1, cohort=4)
    worker = new_worker(tmp_path, url, "polite")
    events = stepwise(worker.run)
    assert next(events) == "cohort 1 claimed"
    assert "rung 0" in next(events)
    worker.stop.set()
    assert list(events) == ["cohort 1 is given back"]
    standing = open_study(url, "heads").tasks().standing()[0]
    assert (standing.state, standing.attempt) == ("waiting", 1)
    assert standing.reason == "its worker was told to stop"
    lines = list(stepwise(new_worker(tmp_path, url, "next").run))
    assert "cohort 1 claimed" in lines  # not as a second attempt
    assert open_study(url, "heads").tasks().unfinished() == 0


def test_sigterm_ends_the_command_with_its_code_and_the_cohort_given_back(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted(tmp_path, url, epochs=1, rungs=1, cohort=7)
    taken = Worker._train_cohort

    def stopped(self: Worker, *arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        taken(self, *arguments)

    monkeypatch.setattr(Worker, "_train_cohort", stopped)
    code, out, _ = in_process(
        capsys, monkeypatch, "worker", "--storage", url, "--study", "heads", "--name", "me",
        "--out", str(tmp_path / "w"), "--device", "cpu", "--threads", "1",
    )  # fmt: skip
    assert code == 128 + signal.SIGTERM
    assert "me | cohort 1 is given back" in out
    assert open_study(url, "heads").tasks().standing()[0].state == "waiting"


def test_a_worker_that_was_presumed_dead_throws_its_result_away_and_goes_on(
    tmp_path: Path, url: str
) -> None:
    submitted(tmp_path, url, epochs=1, rungs=1, cohort=7)
    zombie = new_worker(tmp_path, url, "zombie")
    events = stepwise(zombie.run)
    assert "claimed" in next(events)
    tasks = open_study(url, "heads").tasks()
    [held] = tasks.storage.get_all_trials(tasks._study)
    assert tasks.end(held._trial_id, "zombie fell silent", counts=True)
    lines = list(events)
    assert any("zombie fell silent; what was done of it is thrown away" in line for line in lines)
    assert "cohort 1 claimed, attempt 2" in lines
    assert list(tasks.results(COHORT)) == ["cohort 1"]


def test_a_storage_that_stays_away_ends_the_task_and_then_the_worker(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted(tmp_path, url, Rules(heartbeat=0.1, grace=0.5), epochs=1, rungs=1, cohort=7)
    worker = new_worker(tmp_path, url, "cut off")
    events = stepwise(worker.run)
    next(events)

    def away(*_: Any, **__: Any) -> None:
        raise OSError("stale file handle")

    for name in ("set_trial_user_attr", "set_trial_state_values", "get_all_trials"):
        monkeypatch.setattr(worker.study.storage, name, away)
    lines = []

    def go_on() -> None:
        for line in events:
            lines.append(line)
            if "rung 0" in line:
                threading.Event().wait(1.0)

    with pytest.raises(UserError, match="the storage is out of reach: stale file handle"):
        go_on()
    assert "the storage was out of reach: stale file handle; what was done of it" in lines[-1]


def test_a_base_beyond_help_is_a_result_of_its_cohort_and_others_go_on(
    tmp_path: Path, url: str
) -> None:
    submitted(tmp_path, url, lr=90.0, epochs=8, cohort=7, rungs=1, objective="barlow")
    lines = list(stepwise(new_worker(tmp_path, url, "alone").run))
    assert any("the base diverged" in line for line in lines)
    run = read_run(collected(tmp_path, url))
    assert len(run.ranking) == 7
    assert run.facts["lowered"]


def test_what_is_done_can_be_collected_while_the_rest_goes_on(tmp_path: Path, url: str) -> None:
    submitted(tmp_path, url, epochs=1, rungs=1)
    with pytest.raises(UserError, match="no cohort of it is done yet"):
        collected(tmp_path, url)
    worker = new_worker(tmp_path, url, "slow")
    events = stepwise(worker.run)
    while "cohort 1 done" not in next(events):
        pass
    worker.stop.set()
    list(events)
    run = read_run(collected(tmp_path, url))
    assert (len(run.ranking), run.facts["status"]) == (2, "interrupted")
    with pytest.raises(UserError, match="collect it again"):
        resumed_search(run)
    list(stepwise(new_worker(tmp_path, url, "rest").run))
    run = read_run(collected(tmp_path, url))
    assert (len(run.ranking), run.facts["status"]) == (7, "complete")
    assert sorted(set(run.ranking["cohort"])) == [0, 1, 2, 3]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "config.yaml").write_text("base: vit_t\n")
    with pytest.raises(UserError, match="not what was collected"):
        collected(tmp_path, url, "elsewhere")


def test_solo_runs_by_workers_are_those_of_pretrain(
    one: tuple[Path, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = one
    run = folder / "collected"
    verify = ["verify", str(run), "--by-workers", "--top", "1", "--seeds", "3", "--no-controls"]
    code, out, _ = in_process(capsys, monkeypatch, *verify)
    assert code == 0
    assert "6 solo runs: 6 queued now, 0 done by workers" in out
    list(stepwise(new_worker(folder, url, "soloist").run))
    code, out, _ = in_process(capsys, monkeypatch, *verify)
    assert "6 solo runs: 0 queued now, 6 done by workers" in out
    found = read_run(run)
    assert "gain" in found.ranking.columns
    first = found.ranking["candidate"][0]
    for seed, head in ((0, "none"), (2, first)):  # seed 2 is one that the search did not have
        asked = {"seed": seed, "data_seed": 0, "rungs": 1, "out": folder / f"p-{head}-{seed}"}
        pretraining = Pretraining(prepare_pretraining(asked, run=found, head=head))
        pretraining.run()
        [row] = found.solo[
            (found.solo["candidate"] == head) & (found.solo["seed"] == seed)
        ].to_dict("records")
        for column in ("base_knn", "base_linear", "choose_knn", "choose_linear"):
            assert row[column] == pytest.approx(pretraining.rows[-1][column], abs=1e-6)

    # A later `collect` brings the solo runs too, and all commands read what it wrote.
    again = ["collect", "--storage", url, "--study", "heads", "--out", str(run)]
    for command in (
        ["report", str(run)], ["plot", str(run)], ["export", str(run), "--rank", "1"], again,
    ):  # fmt: skip
        assert in_process(capsys, monkeypatch, *command)[0] == 0
    assert (run / "report.html").is_file()
    assert pd.read_csv(run / "solo.csv")["seed"].nunique() == 3


def test_status_shows_tasks_workers_beats_heads_and_what_is_left(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted(tmp_path, url, epochs=1, rungs=1)
    worker = new_worker(tmp_path, url, "diligent")
    events = stepwise(worker.run)
    while "cohort 2 rung 0" not in next(events):
        pass
    code, out, _ = in_process(capsys, monkeypatch, "status", "--storage", url, "--study", "heads")
    events.close()
    assert code == 0
    head, *rows = out.splitlines()
    assert "1 of 4 tasks done · 1 running · 2 waiting · 1 worker at work · about" in head
    rows = [row.split() for row in rows]
    assert rows[1][:4] == ["cohort", "1", "done", "diligent"]
    assert rows[2][:4] == ["cohort", "2", "running", "diligent"]
    assert "ago" in rows[2]
    assert rows[3][:3] == ["cohort", "3", "waiting"]
    assert rows[5][:3] == ["best", "so", "far:"]


def test_what_is_wrong_is_told_in_one_line_and_nothing_is_written(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ["--storage", url, "--study", "heads"]
    shared = ["--shared", str(tmp_path / "shared")]
    given = flags(tmp_path)

    def told(*arguments: str) -> str:
        return refused(capsys, monkeypatch, *arguments)

    assert "no study that `headsearch submit` wrote" in told("worker", *where)
    assert "no study that `headsearch submit` wrote" in told("status", *where)
    assert "SQLite cannot be shared" in told(
        "submit", *given, *shared, "--storage", "sqlite:///x.db", "--study", "heads"
    )
    median = flags(tmp_path, pruner="median")
    assert "--pruner median judges by what has ended" in told("submit", *median, *where, *shared)
    assert "--grace 30" in told("submit", *given, *where, *shared, "--grace", "30")
    assert "grpc://HOST:PORT" in told("status", "--storage", "grpc://nobody", "--study", "heads")
    assert not (tmp_path / "shared").exists()
    assert in_process(capsys, monkeypatch, "submit", *given, *where, *shared)[0] == 0
    assert "exists already" in told("submit", *given, *where, *shared)


def test_a_worker_with_other_data_or_other_first_weights_is_refused(
    tmp_path: Path, url: str
) -> None:
    submitted(tmp_path, url)
    study, cache = open_study(url, "heads"), tmp_path / "cache"
    with pytest.raises(UserError, match="submitted with other data: training images: "):
        prepare_as_submitted(study, {"data_seed": 5}, cache)
    [weights] = (tmp_path / "shared").iterdir()
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"x")
    with pytest.raises(UserError, match="holds something other than"):
        prepare_as_submitted(study, {"device": "cpu"}, cache)
    weights.unlink()
    with pytest.raises(UserError, match="cannot fetch the base's first weights"):
        prepare_as_submitted(study, {"device": "cpu"}, cache)


def test_first_weights_are_those_that_were_shared(tmp_path: Path, url: str) -> None:
    """Whatever a seed comes to on this machine."""
    submitted(tmp_path, url)
    study = open_study(url, "heads")
    prepared = prepare_as_submitted(study, {"device": "cpu"}, tmp_path / "cache")
    training = prepared.training
    other = training.starting_from({7: training.first_weights[0]}).under(7)
    own = training.under(7).new_trainer("observe").student.state_dict()
    first = training.new_trainer("observe").student.state_dict()
    loaded = other.new_trainer("observe").student.state_dict()
    assert all((loaded[name] == first[name]).all() for name in first)
    assert any((own[name] != first[name]).any() for name in first)


def test_a_space_with_code_in_it_is_not_executed_unless_the_worker_names_it(
    tmp_path: Path, url: str
) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "class Head(nn.Module):\n"
        "    def __init__(self, dim, grid, depth=1):\n"
        "        super().__init__()\n"
        "        self.map = nn.Conv2d(dim, dim, 1)\n"
        "    def forward(self, x):\n"
        "        return self.map(x)\n"
    )
    space = "families:\n  mine: {module: mine.py:Head, depth: 1}\n  mixer: {depth: 1}\n"
    submitted(tmp_path, url, space=space)
    study, own = open_study(url, "heads"), {"device": "cpu"}
    with pytest.raises(UserError, match="are code: give the file here with --space"):
        prepare_as_submitted(study, own, tmp_path / "cache")
    prepare_as_submitted(study, own, tmp_path / "cache", tmp_path / "space.yaml")


def test_queue_and_search_work_through_optunas_proxy(tmp_path: Path) -> None:
    pytest.importorskip("grpc")
    from optuna.storages._grpc.server import make_server

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = make_server(InMemoryStorage(), "127.0.0.1", port)
    server.start()
    try:
        url = f"grpc://127.0.0.1:{port}"
        tasks = Tasks.create(open_storage(url), "heads", [Task("a", "k", [1])], PATIENT)
        other = Tasks(open_storage(url), "heads")
        claim = other.claim("far away")
        assert claim is not None
        assert tasks.claim("near") is None
        claim.beat()
        claim.commit({"of": "a"})
        claim.commit({"of": "a"})
        assert tasks.results() == {"a": {"of": "a"}}
        with pytest.raises(UserError, match="no study"):
            open_study(url, "another")
        changes = {"cohort": 7, "rungs": 1, "epochs": 1}
        submitted(tmp_path, url, name="whole", **changes)
        list(stepwise(new_worker(tmp_path, url, "far away", "whole").run))
        same(collected(tmp_path, url, study="whole"), searched(tmp_path, **changes))
    finally:
        server.stop(None)


def test_a_password_is_neither_printed_nor_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql+psycopg://me:s3cret@localhost:1/x"
    assert masked(url) == "postgresql+psycopg://me:***@localhost:1/x"
    assert masked("nonsense://me:s3cret@") == "nonsense://me:***@"
    out = tmp_path / "run"
    given = [*flags(tmp_path), "--storage", url, "--out", str(out)]
    error = refused(capsys, monkeypatch, "run", *given)
    assert "--storage: cannot open it" in error
    assert "s3cret" not in error
    prepared = prepare(resolve(settings(tmp_path, storage=url)))
    written = yaml.safe_dump(settings_of(prepared, out))
    assert "s3cret" not in written
    assert "me:***@localhost" in written


def test_a_hidden_password_comes_from_the_environment_or_is_left_to_the_database(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hidden = "postgresql://me:***@nowhere/x"
    assert unmasked(hidden) == "postgresql://me@nowhere/x"
    monkeypatch.setenv(VARIABLE, "postgresql://me:other@elsewhere/x")
    assert unmasked(hidden) == "postgresql://me@nowhere/x"
    monkeypatch.setenv(VARIABLE, "postgresql://me:s3cret@nowhere/x")
    assert unmasked(hidden) == "postgresql://me:s3cret@nowhere/x"


def test_a_storage_that_fails_in_a_command_is_told_in_one_line(
    one: tuple[Path, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise StorageInternalError("wrapped") from OSError("server closed the connection")

    monkeypatch.setattr(JournalStorage, "get_all_trials", away)
    where = ["--storage", one[1], "--study", "heads"]
    run = str(one[0] / "collected")
    for command in (["status", *where], ["collect", *where, "--out", run]):
        error = refused(capsys, monkeypatch, *command)
        assert "the storage is out of reach: server closed the connection" in error


def test_a_search_of_one_process_keeps_its_study_in_a_journal_file_too(
    tmp_path: Path, url: str
) -> None:
    changes = {"storage": url, "cohort": 7, "rungs": 1, "epochs": 1}
    run = read_run(searched(tmp_path, **changes))
    assert run.facts["status"] == "complete"
    assert len(optuna.load_study(study_name=None, storage=open_storage(url)).trials) == 7
