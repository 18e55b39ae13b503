"""`report` and `plot` on an interrupted run, at every stage and with lost files."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import optuna
import pandas as pd
import pytest
import yaml

from headsearch.config.settings import resolve
from headsearch.errors import UserError
from headsearch.report.plots.style import RC
from headsearch.runs.directory import HOLDER, LOCK, abandoned, claimed, hold
from headsearch.runs.run import read_run
from headsearch.runs.same_settings import check_same_settings
from headsearch.study.events import Scored
from headsearch.study.resuming import resumed_search
from headsearch.study.search import Search
from headsearch.study.setup import prepare
from helpers.command_line import in_process
from helpers.stepwise import stepwise

optuna.logging.set_verbosity(optuna.logging.WARNING)

SPACE = "families: {poolformer: {depth: [1, 2]}, mixer: {depth: 1}}\ncontrols: {identity: }\n"


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What a run's directory holds at each stage, as a crash would leave it."""
    folder = tmp_path_factory.mktemp("crashed")
    (folder / "space.yaml").write_text(SPACE)
    flags = {
        "base": "test_vit", "space": str(folder / "space.yaml"), "image_size": 16, "patch_size": 4,
        "images": 96, "epochs": 2, "batch_size": 32, "rungs": 2, "eval_images": 64,
        "bank_images": 64, "min_keep": 1, "device": "cpu", "precision": "float32", "threads": 1,
        "out": folder / "run",
    }  # fmt: skip
    found: dict[str, Path] = {}

    def keep(stage: str) -> None:
        found[stage] = folder / stage
        shutil.copytree(folder / "run", found[stage])

    config = resolve(flags)
    with claimed(config, flags) as directory:
        keep("config.yaml alone")
        search = Search(prepare(config.model_copy(update={"out": None})), directory)
    keep("study opened")
    with closing(stepwise(search.run)) as events:
        for event in events:
            if isinstance(event, Scored):
                keep(f"rung {event.rung}")
    keep("complete")
    return found


def later_optuna(study: Path) -> None:
    with closing(sqlite3.connect(study)) as database:
        database.execute("UPDATE alembic_version SET version_num = 'v9.9.9'")
        database.commit()


def another_run(study: Path) -> None:
    study.unlink()
    optuna.create_study(study_name="another", storage=f"sqlite:///{study}")


def facts_of_another_kind(study: Path) -> None:
    with closing(sqlite3.connect(study)) as database:
        database.execute("UPDATE study_user_attributes SET value_json = '\"lost\"'")
        database.commit()


FAULTS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda run: None,
    "study missing": lambda run: (run / "study.db").unlink(),
    "study empty": lambda run: (run / "study.db").write_bytes(b""),
    "study no database": lambda run: (run / "study.db").write_bytes(bytes(5000)),
    "study cut short": lambda run: os.truncate(run / "study.db", 6000),
    "study of a later Optuna": lambda run: later_optuna(run / "study.db"),
    "study of another run": lambda run: another_run(run / "study.db"),
    "study with other facts": lambda run: facts_of_another_kind(run / "study.db"),
    "no ranking.csv": lambda run: (run / "ranking.csv").unlink(),
    "no rungs.csv": lambda run: (run / "rungs.csv").unlink(),
    "no scores.csv": lambda run: (run / "scores.csv").unlink(),
    "config.yaml and study alone": lambda run: [file.unlink() for file in run.glob("*.csv")],
    "tables alone": lambda run: (shutil.rmtree(run / "checkpoint"), (run / "study.db").unlink()),
}
NOTHING_YET = "No head can be recommended yet, because no rung has been scored."
UNTRAINED = "No head can be recommended yet, because only the untrained network (rung 0) has"
UNKNOWN = "Provisional (status unknown at rung 1 of 2): "
UNREAD = "The study of this run could not be read, so it is unknown how the run ended."
INTERRUPTED = "The run is interrupted: everything in this report is provisional."
# where the run ended, what is lost since, how the advice begins, what the report warns of
CASES = [
    ("config.yaml alone", "nothing", NOTHING_YET, UNREAD),
    ("study opened", "nothing", NOTHING_YET, "No rung scored yet"),
    ("rung 0", "nothing", UNTRAINED, INTERRUPTED),
    ("rung 1", "nothing", "Provisional (interrupted at rung 1 of 2): ", INTERRUPTED),
    ("complete", "nothing", "", "One seed (0)"),
    ("study opened", "study missing", NOTHING_YET, UNREAD),
    *(("rung 1", fault, UNKNOWN, UNREAD) for fault in FAULTS if fault.startswith("study ")),
    ("rung 1", "no ranking.csv", "No head can be recommended, because ranking.csv is missing.", ""),
    ("rung 1", "no rungs.csv", "Provisional (interrupted at rung 1 of 2): ", INTERRUPTED),
    ("rung 1", "no scores.csv", "Provisional (interrupted at rung 1 of 2): ", INTERRUPTED),
    ("complete", "config.yaml and study alone", NOTHING_YET, "nothing to rank"),
    ("complete", "tables alone", "Provisional (status unknown at rung 2 of 2): ", UNREAD),
]


@pytest.mark.parametrize(("stage", "fault", "advice", "warning"), CASES)
def test_report_and_plot(
    stage: str,
    fault: str,
    advice: str,
    warning: str,
    stages: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(RC, "savefig.dpi", 50)
    run = tmp_path / "run"
    shutil.copytree(stages[stage], run)
    FAULTS[fault](run)
    code, out, err = in_process(capsys, monkeypatch, "report", str(run))
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[-1] == f"report: {run / 'report.html'}"
    assert lines[-2].startswith(advice)
    assert warning in (run / "report.html").read_text()

    ranked = len(pd.read_csv(run / "ranking.csv")) if (run / "ranking.csv").exists() else 0
    code, out, err = in_process(capsys, monkeypatch, "plot", str(run), "--y", "head_knn")
    if ranked:
        assert (code, out) == (0, f"plot: {run}/plots/head_knn-over-discrepancy.png\n")
    else:
        assert code == 2
        assert err.endswith("no head has both 'discrepancy' and 'head_knn' in this run yet; choose "
                            "others\n")  # fmt: skip


@pytest.mark.parametrize("fault", ["study of a later Optuna", "study no database"])
def test_a_run_whose_study_cannot_be_read_is_not_resumed(
    fault: str,
    stages: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(stages["rung 1"], tmp_path / "run")
    FAULTS[fault](tmp_path / "run")
    code, _, err = in_process(capsys, monkeypatch, "resume", str(tmp_path / "run"))
    assert code == 2
    assert "its study cannot be opened (" in err
    assert err.count("\n") == 1


def test_a_run_that_is_held_is_running(stages: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(stages["rung 1"], tmp_path / "run")
    lock = hold(tmp_path / "run")
    assert read_run(tmp_path / "run").facts["status"] == "running"
    lock.release()
    assert read_run(tmp_path / "run").facts["status"] == "interrupted"
    holder = tmp_path / "run" / HOLDER
    holder.write_text("process 1 on another-machine since 2026-01-01 00:00:00")
    status = read_run(tmp_path / "run").facts["status"]
    assert status == "running", "as far as can be seen from here"


@pytest.mark.parametrize("lock_is_there", [True, False])
def test_looking_whether_a_run_was_killed_changes_nothing_in_it(
    tmp_path: Path, lock_is_there: bool
) -> None:
    path = tmp_path / "run"
    path.mkdir()
    lock = hold(path)
    assert not abandoned(path)
    lock.release()
    if not lock_is_there:
        (path / LOCK).unlink(missing_ok=True)
    before = {file: file.stat().st_mtime_ns for file in (path, *path.iterdir())}
    for file in before:  # as in an archive
        file.chmod(0o555 if file.is_dir() else 0o444)
    assert abandoned(path)
    assert {file: file.stat().st_mtime_ns for file in (path, *path.iterdir())} == before
    path.chmod(0o755)


def test_a_run_from_before_some_settings_and_formats_is_resumed(
    stages: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(stages["rung 1"], run)
    begun = yaml.safe_load((run / "config.yaml").read_text())
    for name in ("format", "seeds", "data_seed", "snapshot_every", "max_bad_images"):
        del begun[name]
    (run / "config.yaml").write_text(yaml.safe_dump(begun))
    resumed_search(read_run(run)).run()
    whole = stages["complete"]
    assert (run / "rungs.csv").read_bytes() == (whole / "rungs.csv").read_bytes()
    with pytest.raises(UserError, match=r"seeds has changed since the run began, from 1 to 2"):
        check_same_settings(run, {**begun, "seeds": 2})
