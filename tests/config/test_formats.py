"""File formats: older files are read, later ones are refused with the reason."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from headsearch.cli import SLOW_TO_START
from headsearch.config import formats
from headsearch.config.yaml_file import located
from headsearch.errors import UserError
from headsearch.models.space import load_space, read_space, ready_spaces
from headsearch.pretraining.head_selection import head_on, name_at
from headsearch.report.plots.style import RC
from headsearch.runs.directory import CONFIG, create
from headsearch.runs.run import read_run
from headsearch.runs.snapshot import Snapshot, read_snapshot, write_snapshot
from headsearch.training.base_plan import plan_of_run
from headsearch.version import VERSION
from helpers.command_line import in_process

PUBLISHED = sorted((Path(__file__).parents[2] / "results" / "cifar10").glob("*/config.yaml"))


def test_published_runs_include_some_with_and_some_without_a_format() -> None:
    assert {formats.KEY in yaml.safe_load(file.read_text()) for file in PUBLISHED} == {True, False}


@pytest.mark.parametrize("config", PUBLISHED, ids=lambda path: path.parent.name)
def test_published_runs_are_read(
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Most were made before runs had a format, seeds or solo runs."""
    monkeypatch.setitem(RC, "savefig.dpi", 50)
    run = tmp_path / "run"
    shutil.copytree(config.parent, run)
    before = read_run(run)
    assert len(before.ranking) >= 7
    content = located(before.config["space_content"], "space_content")
    assert read_space(content, "space_content").hash == before.config["space_hash"]
    head = head_on(plan_of_run(before), name_at(before, 1)[0], before)
    assert head.candidate.name == before.ranking["candidate"][0]

    (run / "report.html").unlink(missing_ok=True)
    code, out, _ = in_process(capsys, monkeypatch, "report", str(run))
    assert code == 0
    assert before.ranking["candidate"][0] in out
    assert (run / "report.html").exists()
    code, out, _ = in_process(capsys, monkeypatch, "plot", str(run), "--x", "params_m")
    assert code == 0


def test_what_is_written_has_a_format(tmp_path: Path) -> None:
    create(tmp_path / "run", {"base": "test_vit"})
    written = yaml.safe_load((tmp_path / "run" / CONFIG).read_text())
    assert written == {"format": formats.RUN, "base": "test_vit"}
    assert read_run(tmp_path / "run").config == {"base": "test_vit"}
    for file in ready_spaces().values():
        assert yaml.safe_load(file.read_text())["format"] == formats.SPACE


LATER = "format: 2\nbase: test_vit\nshape_of_things_to_come: {a: [1, 2]}\n"
COMMANDS = {
    "report": ["report", "run"],
    "plot": ["plot", "run"],
    "resume": ["resume", "run"],
    "verify": ["verify", "run"],
    "explain": ["explain", "run"],
    "calibrate": ["calibrate", "run"],
    "export": ["export", "run"],
    "pretrain": ["pretrain", "run"],
    "run": ["run", "--config", "run/config.yaml"],
}


def update(err: str, file: str, found: int, known: int) -> bool:
    return err.startswith(f"headsearch: {file}") and err.endswith(
        f": written by a later headsearch, in format {found}; this one ({VERSION}) reads formats "
        f"up to {known}: update headsearch\n"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_of_a_later_headsearch(
    command: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / CONFIG).write_text(LATER)
    code, out, err = in_process(capsys, monkeypatch, *COMMANDS[command])
    assert code == 2
    if command in SLOW_TO_START:  # says so before it reads the run
        started = ("headsearch ", "· importing ")
        assert all(line.startswith(started) for line in out.splitlines()), out
    else:
        assert out == ""
    assert update(err, "run/config.yaml", 2, formats.RUN)
    assert [path.name for path in tmp_path.rglob("*")] == ["run", CONFIG]


@pytest.mark.parametrize("command", ["run", "space", "pretrain"])
def test_a_space_of_a_later_headsearch(
    command: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "later.yaml").write_text("families: {mixer: {depth: 1}}\nhopes: {}\nformat: 7\n")
    arguments = {
        "run": ["run", "--space", "later.yaml", "--base", "test_vit"],
        "space": ["space", "later.yaml"],
        "pretrain": ["pretrain", "--head", "later.yaml", "--base", "test_vit"],
    }[command]
    code, _, err = in_process(capsys, monkeypatch, *arguments)
    assert code == 2
    assert update(err, "later.yaml:3", 7, formats.SPACE)
    assert [path.name for path in tmp_path.rglob("*")] == ["later.yaml"]


@pytest.mark.parametrize("found", ["0", "-1", "1.0", "yes", "one", "[1]", "{a: 1}"])
def test_an_invalid_format_is_refused(found: str, tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(f"format: {found}\nfamilies: {{mixer: {{depth: 1}}}}\n")
    with pytest.raises(UserError, match=r"space\.yaml:1: format must be a whole number from 1 on"):
        load_space(file)


def test_the_format_is_no_part_of_what_a_space_holds(tmp_path: Path) -> None:
    spaces = []
    for text in ("", "format: 1\n", "format:\n"):
        file = tmp_path / "space.yaml"
        file.write_text(f"{text}families: {{mixer: {{depth: 1}}}}\n")
        spaces.append(load_space(file).hash)
    assert len(set(spaces)) == 1


def test_a_snapshot_of_another_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headsearch.runs.snapshot.FORMAT", "2")
    write_snapshot(tmp_path, Snapshot({"x": torch.zeros(1)}, {}))
    monkeypatch.undo()
    with pytest.raises(UserError, match="a snapshot of format 2, and this headsearch reads form"):
        read_snapshot(tmp_path)
