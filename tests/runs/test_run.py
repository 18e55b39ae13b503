"""The run directory: written completely or not at all, and read back at every stage."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from headsearch.config.settings import RunConfig, resolve
from headsearch.errors import UserError
from headsearch.runs.directory import claimed, create, new_run_directory, write_atomically
from headsearch.runs.run import read_run
from headsearch.runs.same_settings import check_same_settings
from headsearch.runs.signals import TerminatedError
from headsearch.runs.tables import RANKING_COLUMNS, RUNG_COLUMNS, write_table


def test_a_fresh_directory_is_named_after_time_and_run_and_never_one_that_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = new_run_directory(None, "vit_s-heads")
    assert first.parent == Path("results")
    assert first.name.endswith("vit-s-heads")
    assert not first.exists()
    first.mkdir(parents=True)
    assert new_run_directory(None, "vit_s-heads") != first


def test_a_directory_that_exists_or_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="exists already"):
        new_run_directory(tmp_path, "x")
    with pytest.raises(UserError, match="exists already"):
        create(tmp_path, {})
    with pytest.raises(UserError, match="cannot write the run directory"):
        create(tmp_path / "file" / "run", {})


def within_claim(config: RunConfig, start: Callable[[Path], None]) -> None:
    with claimed(config, {"base": "x"}) as directory:
        start(directory)


def test_an_empty_directory_is_taken_and_stays_where_the_start_fails(tmp_path: Path) -> None:
    """A mounted volume, for example, whose root holds a folder of the file system's own."""
    volume = tmp_path / "volume"
    (volume / "lost+found").mkdir(parents=True)
    assert new_run_directory(volume, "x") == volume
    config = resolve({"out": volume})

    def refuse(directory: Path) -> None:
        assert (directory / "config.yaml").is_file()
        raise UserError("no such base")

    with pytest.raises(UserError, match="no such base"):
        within_claim(config, refuse)
    assert [path.name for path in volume.iterdir()] == ["lost+found"]


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, KeyboardInterrupt, TerminatedError])
def test_a_start_that_fails_in_any_way_leaves_nothing(
    error: type[BaseException], tmp_path: Path
) -> None:
    config = resolve({"out": tmp_path / "new" / "run"})

    def fail(directory: Path) -> None:
        (directory / "study.db").write_text("")
        raise error

    with pytest.raises(error):
        within_claim(config, fail)
    assert list(tmp_path.iterdir()) == []


def test_sigterm_before_the_first_step_leaves_nothing(tmp_path: Path) -> None:
    config = resolve({"out": tmp_path / "run"})
    before = signal.getsignal(signal.SIGTERM)

    def wait(directory: Path) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    with pytest.raises(TerminatedError):
        within_claim(config, wait)
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_full_disk_at_the_start_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(UserError, match="cannot write the run directory: No space left"):
        create(tmp_path / "new" / "run", {})
    assert list(tmp_path.iterdir()) == []


def test_results_are_kept_where_a_start_fails(tmp_path: Path) -> None:
    config = resolve({"out": tmp_path / "run"})

    def fail(directory: Path) -> None:
        (directory / "left_out.txt").write_text("a.png: no image")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        within_claim(config, fail)
    assert (tmp_path / "run" / "left_out.txt").is_file()


def test_a_run_that_scored_nothing_yet_reads_as_empty_tables(tmp_path: Path) -> None:
    create(tmp_path / "run", {"base": "vit_s"})
    run = read_run(tmp_path / "run")
    assert run.config == {"base": "vit_s"}
    assert run.facts == {}
    assert list(run.ranking.columns) == list(RANKING_COLUMNS)
    assert list(run.rungs.columns) == list(RUNG_COLUMNS)
    assert run.ranking.empty


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("config.yaml", "a: [1", "not valid YAML"),
        ("config.yaml", "- 1", "not the config of a run"),
        ("ranking.csv", "rank,candidate\n1,a\n", "no column 'family'"),
        ("rungs.csv", "", "not a table of a run"),
    ],
)
def test_a_damaged_run_says_which_file_is_wrong(
    tmp_path: Path, file: str, text: str, words: str
) -> None:
    create(tmp_path / "run", {"base": "vit_s"})
    (tmp_path / "run" / file).write_text(text)
    with pytest.raises(UserError, match=words) as error:
        read_run(tmp_path / "run")
    assert file in str(error.value)


@pytest.mark.parametrize(
    ("domain", "base", "points"),
    [
        ("image", "vit_s", "pixels"),
        ("audio", "vit_s", "time steps"),
        ("audio", "hf:wav2vec2", "samples"),
        ("audio", "hf:/gone/folder", "samples"),  # no text base has clips: nothing is read
        ("text", "hf:bert-base-uncased", "tokens"),
    ],
)
def test_a_run_knows_what_its_distances_are_counted_in(
    tmp_path: Path, domain: str, base: str, points: str
) -> None:
    create(tmp_path / "run", {"base": base, "domain": domain})
    assert read_run(tmp_path / "run").words.say("{points}") == points


def test_what_is_no_run_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run directory"):
        read_run(tmp_path / "none")
    with pytest.raises(UserError, match=r"no config\.yaml"):
        read_run(tmp_path)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ranking.csv"
    write_atomically(file, "old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_table_reads_back_as_it_was_written(tmp_path: Path) -> None:
    frame = pd.DataFrame([dict.fromkeys(RUNG_COLUMNS, 1) | {"candidate": "convnext-d3"}])
    create(tmp_path / "run", {})
    write_table(tmp_path / "run" / "rungs.csv", frame)
    assert read_run(tmp_path / "run").rungs["candidate"].tolist() == ["convnext-d3"]


def test_a_run_older_than_a_setting_is_resumed_with_its_default(tmp_path: Path) -> None:
    """A run from before `--images-per-head` existed can be resumed."""
    settings = resolve({}).model_dump(mode="json") | {"study_name": "old"}
    begun = {name: value for name, value in settings.items() if name != "images_per_head"}
    create(tmp_path / "run", begun)
    assert check_same_settings(tmp_path / "run", settings)["images_per_head"] == "all"
    with pytest.raises(UserError, match=r"images_per_head has changed .* from all to share"):
        check_same_settings(tmp_path / "run", settings | {"images_per_head": "share"})
