"""Run directories that somebody has edited: one line with file and field, and nothing is shown."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
import yaml

from headsearch.report.plots.style import RC
from headsearch.runs import tables
from headsearch.runs.directory import create
from helpers import synthetic_runs
from helpers.command_line import in_process


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "run"
    run = synthetic_runs.run(path)
    create(path, {**run.config, "rank_by": "accuracy", "study_name": "made"})
    for name in ("ranking", "rungs", "scores"):
        getattr(run, name).to_csv(path / f"{name}.csv", index=False)
    return path


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(RC, "savefig.dpi", 30)
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def edit(file: Path, pattern: str, text: str) -> None:
    before = file.read_text()
    after = re.sub(pattern, text, before, count=1, flags=re.MULTILINE)
    assert after != before
    file.write_text(after)


def set_cell(file: Path, column: str, value: object) -> None:
    frame = pd.read_csv(file, dtype=object)
    frame.loc[1, column] = value
    frame.to_csv(file, index=False)


CONFIGS = {
    "unknown rank_by": (r"^rank_by: .*", "rank_by: luck", r"config\.yaml:\d+: .*'luck'"),
    "versions a number": (
        r"^versions:\n( .*\n)+", "versions: 3\n", r"config\.yaml:\d+: versions must be a mapping"
    ),
    "seed a word": (r"^seed: .*", "seed: many", r"config\.yaml:\d+: seed: .*'many'"),
    "epochs a switch": (r"^epochs: .*", "epochs: true", r"config\.yaml:\d+: epochs: .*True"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGS)
def test_a_setting_that_no_run_can_have(
    case: str,
    run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pattern, text, said = CONFIGS[case]
    edit(run / "config.yaml", pattern, text)
    code, _, err = in_process(capsys, monkeypatch, "report", str(run))
    assert (code, err.count("\n")) == (2, 1)
    assert re.search(said, err), err


CELLS = {
    "k-NN of 7.5": ("ranking.csv", "head_knn", 7.5, "'head_knn' holds 7.5, and not a share"),
    "a negative rung": ("rungs.csv", "rung", -1, "'rung' holds -1, and not a whole number"),
    "half a rank": ("ranking.csv", "rank", 1.5, "'rank' holds 1.5, and not a whole number"),
    "infinite cost": ("ranking.csv", "gflops", "inf", "'gflops' holds inf, and not a finite"),
    "no seed": ("scores.csv", "seed", None, "'seed' holds nan, and not a whole number"),
    "no name": ("ranking.csv", "candidate", None, "'candidate' is empty"),
}


@pytest.mark.parametrize("case", CELLS)
def test_a_cell_that_no_table_can_have(
    case: str,
    run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, column, value, said = CELLS[case]
    set_cell(run / name, column, value)
    code, _, err = in_process(capsys, monkeypatch, "report", str(run))
    assert (code, err.count("\n")) == (2, 1)
    assert f"{name}: column {said}" in err


@pytest.mark.parametrize("name", ["ranking.csv", "rungs.csv", "scores.csv"])
def test_a_row_that_is_there_twice(
    name: str, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (run / name).read_text().splitlines()
    (run / name).write_text("\n".join([*lines, lines[1]]) + "\n")
    code, _, err = in_process(capsys, monkeypatch, "report", str(run))
    assert (code, err.count("\n")) == (2, 1)
    assert f"{name}: the row of {lines[1].split(',')[1 if name == 'ranking.csv' else 0]}" in err
    assert "is there twice" in err


def test_a_table_of_too_many_rows(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MOST_ROWS", 10)
    code, _, err = in_process(capsys, monkeypatch, "report", str(run))
    assert (code, err.count("\n")) == (2, 1)
    assert "ranking.csv: a table of a run has at most 10 rows" in err


def test_a_head_may_be_called_na(run: Path) -> None:
    set_cell(run / "ranking.csv", "candidate", "NA")
    found = tables.read_table(run / "ranking.csv", tables.RANKING_COLUMNS)
    assert found["candidate"][1] == "NA"


def test_a_report_writes_nothing_into_the_database_that_a_run_names(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = run.parent / "customers.db"
    with closing(sqlite3.connect(foreign)) as database:
        database.execute("CREATE TABLE customers (name TEXT)")
        database.commit()
    before = foreign.read_bytes()
    config = yaml.safe_load((run / "config.yaml").read_text())
    for url in (f"sqlite:///{foreign}", f"sqlite:///{run.parent}/new.db",
                f"journal://{run.parent}/new.log"):  # fmt: skip
        (run / "config.yaml").write_text(yaml.safe_dump({**config, "storage": url}))
        for command in ("report", "plot"):
            code, _, err = in_process(capsys, monkeypatch, command, str(run))
            assert (code, err) == (0, "")
    assert foreign.read_bytes() == before
    assert {path.name for path in run.parent.iterdir()} == {"run", "customers.db"}


SECRET = "postgresql://me:s3cret@127.0.0.1:1/heads"


def test_a_password_in_a_run_is_never_printed(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    fleet = {"study": "s", "storage": SECRET}
    written = {**config, "storage": SECRET, "fleet": fleet, "data": f"wds/{SECRET}"}
    (run / "config.yaml").write_text(yaml.safe_dump(written))
    code, out, err = in_process(capsys, monkeypatch, "report", str(run))
    assert code == 0
    shown = [out, err, (run / "report.html").read_text(), (run / "report.md").read_text()]
    assert not any("s3cret" in text for text in shown)
    assert "postgresql://me:***@127.0.0.1:1/heads" in shown[2]
