"""Runs that somebody changed while they were interrupted: edited, robbed of files, or locked."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import yaml

from headsearch.config.settings import resolve
from headsearch.errors import UserError
from headsearch.report.plots.style import RC
from headsearch.runs import storage
from headsearch.runs.run import read_run
from headsearch.runs.snapshot import FOLDER
from headsearch.study.events import Event, Noted, Scored
from headsearch.study.leaderboard import Leaderboard
from headsearch.study.resuming import resumed_search
from headsearch.study.search import Search
from headsearch.study.setup import prepare
from helpers.command_line import in_process
from helpers.stepwise import stepwise
from helpers.tiny_search import begun, settings

optuna.logging.set_verbosity(optuna.logging.WARNING)

SPACE = "families: {poolformer: {depth: [1, 2]}, mixer: {depth: 1}}\ncontrols: {identity: }\n"
CHANGES: dict[str, Any] = {"epochs": 2, "rungs": 2, "min_keep": 1}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A search at rung 1, and at its end."""
    folder = tmp_path_factory.mktemp("stages")
    search = Search(begun(folder, "run", SPACE, **CHANGES))
    for event in stepwise(search.run):
        if isinstance(event, Scored) and event.rung == 1:
            shutil.copytree(folder / "run", folder / "rung 1")
    return {"rung 1": folder / "rung 1", "complete": folder / "run"}


@pytest.fixture
def stopped(stages: dict[str, Path], tmp_path: Path) -> Path:
    shutil.copytree(stages["rung 1"], tmp_path / "run")
    return tmp_path / "run"


def edit(run: Path, **changes: Any) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, **changes}))


EDITS: dict[str, dict[str, Any]] = {
    "seed": {"seed": 7},
    "lr": {"lr": 0.5},
    "eval_images": {"eval_images": 40},
    "rank_by": {"rank_by": "discrepancy"},
    "min_keep": {"min_keep": 2},
    "pruner": {"pruner": "none"},
    "objective": {"objective": "barlow"},
    "epochs": {"epochs": 9},
    "images": {"images": 1_000_000},
    "coupling": {"coupling": "observe"},
    "batch_size": {"batch_size": 24},
    "base": {"base": "vit_s"},
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_setting_is_refused_with_both_values(name: str, stopped: Path) -> None:
    before = read_run(stopped).config[name]
    edit(stopped, **EDITS[name])
    said = f"{name} has changed since the run began, from {before} to {EDITS[name][name]}: it "
    with pytest.raises(UserError, match=re.escape(said)):
        resumed_search(read_run(stopped))


def test_all_edited_settings_are_named(stopped: Path) -> None:
    edit(stopped, lr=0.5, seed=7)
    with pytest.raises(UserError, match=r"lr has changed .* to 0\.5; seed, from 0 to 7: it cannot"):
        resumed_search(read_run(stopped))


def test_edits_that_do_not_matter_are_accepted(stages: dict[str, Path], stopped: Path) -> None:
    edit(stopped, snapshot_every=3.0, max_bad_images=0.5)
    resumed_search(read_run(stopped)).run()
    whole = stages["complete"]
    assert (stopped / "rungs.csv").read_bytes() == (whole / "rungs.csv").read_bytes()


@pytest.mark.parametrize("lost", ["missing", "damaged"])
def test_lost_snapshots_are_refused_and_started_over_on_request(
    lost: str,
    stages: dict[str, Path],
    stopped: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(RC, "savefig.dpi", 30)
    if lost == "missing":
        shutil.rmtree(stopped / FOLDER)
    else:
        for file in (stopped / FOLDER).iterdir():
            file.write_bytes(b"cut short")
    code, _, err = in_process(capsys, monkeypatch, "resume", str(stopped))
    assert (code, err.count("\n")) == (2, 1)
    assert "both snapshots are missing or damaged, so it cannot continue where it was: head" in err
    code, _, _ = in_process(capsys, monkeypatch, "resume", str(stopped), "--start-over")
    assert code == 0
    assert (stopped / "rungs.csv").read_bytes() == (stages["complete"] / "rungs.csv").read_bytes()
    with closing(sqlite3.connect(stopped / "study.db")) as database:
        assert database.execute("SELECT COUNT(*) FROM studies").fetchone() == (1,)
        assert database.execute("SELECT COUNT(*) FROM trials").fetchone() == (4,)


def test_a_run_with_a_snapshot_is_not_started_over(stopped: Path) -> None:
    with pytest.raises(UserError, match="has a snapshot to continue from: leave out --start-over"):
        resumed_search(read_run(stopped), start_over=True)
    assert len(read_run(stopped).ranking) == 4


def test_a_locked_study_is_not_called_lost(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "READ_WAIT_S", 0.1)
    run = read_run(stopped)
    with closing(sqlite3.connect(stopped / "study.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match="is locked by another process: wait until") as error:
            resumed_search(run)
    assert "search again" not in str(error.value)


def test_a_directory_that_is_deleted_while_a_search_runs(stopped: Path) -> None:
    search = resumed_search(read_run(stopped))

    def delete(event: Event) -> None:
        shutil.rmtree(stopped, ignore_errors=True)

    with pytest.raises(UserError, match=r"was deleted while the search ran.*: search again"):
        search.run(delete)


def test_a_disk_that_is_full_for_a_moment_costs_no_search(
    stages: dict[str, Path], stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables are written again at the next rung; what cannot be written at the end is told."""
    real, events, fails = Leaderboard.write, list[Event](), [True, False]

    def write(board: Leaderboard, directory: Path) -> None:
        if fails and fails.pop(0):
            raise OSError(28, "No space left on device")
        real(board, directory)

    monkeypatch.setattr(Leaderboard, "write", write)
    resumed_search(read_run(stopped)).run(events.append)
    notes = [event.text for event in events if isinstance(event, Noted)]
    assert notes == ["the tables cannot be written: No space left on device; the search continues"]
    whole = stages["complete"]
    assert (stopped / "rungs.csv").read_bytes() == (whole / "rungs.csv").read_bytes()


def test_tables_that_cannot_be_written_at_the_end_are_an_error(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Leaderboard, "write", full)
        with pytest.raises(UserError, match=r"tables cannot be written: No space.*resume"):
            resumed_search(read_run(stopped)).run()
    resumed_search(read_run(stopped)).run()
    assert set(read_run(stopped).ranking["state"]) <= {"complete", "pruned"}


MISSING: dict[str, Callable[[Path], object]] = {
    "the report": lambda run: (run / "report.html").unlink(missing_ok=True),
    "a table": lambda run: (run / "ranking.csv").unlink(),
}


@pytest.mark.parametrize("what", MISSING)
def test_resume_adds_what_a_complete_run_lacks(
    what: str,
    stages: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(RC, "savefig.dpi", 30)
    run = tmp_path / "run"
    shutil.copytree(stages["complete"], run)
    before = pd.read_csv(run / "ranking.csv")
    MISSING[what](run)
    code, out, _ = in_process(capsys, monkeypatch, "resume", str(run))
    assert code == 0
    assert f"report: {run / 'report.html'}" in out
    assert (run / "report.html").is_file()
    pd.testing.assert_frame_equal(pd.read_csv(run / "ranking.csv"), before)


def test_constraints_that_exclude_every_head_of_a_range(tmp_path: Path) -> None:
    space = (
        "families: {convnext: {depth: 1, mlp_ratio: {low: 1.0, high: 2.0}}}\n"
        "controls: {identity: }\nconstraints: {max_params: 0.000001}\n"
    )
    flags = settings(tmp_path, space, trials=3)
    with pytest.raises(UserError, match=r"the constraints leave no candidate .*M parameters, over"):
        prepare(resolve(flags))
