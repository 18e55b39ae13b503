"""Storages: paths with any characters, reading that writes nothing, and locks."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest

from headsearch.errors import UserError
from headsearch.runs import storage
from headsearch.runs.storage import existing_storage, file_storage, is_locked, reason_of
from headsearch.runs.storage_url import without_passwords

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.parametrize("name", ["a{b}", "{", "what?x=1", "100%41", "a#b", "ä b"])
def test_a_study_in_a_folder_of_any_name(name: str, tmp_path: Path) -> None:
    file = tmp_path / name / "study.db"
    file.parent.mkdir()
    optuna.create_study(study_name="s", storage=file_storage(file, create=True))
    assert file.is_file()
    found = optuna.load_study(study_name="s", storage=file_storage(file, create=False))
    assert found.trials == []
    assert [path.name for path in tmp_path.rglob("*")] == [name, "study.db"]


def test_a_database_that_is_set_up_in_part_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill after the first table, and before the index that keeps the names of studies apart."""

    class Killed(BaseException):
        """The process is gone."""

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    file = tmp_path / "study.db"
    with monkeypatch.context() as patched:
        patched.setattr("sqlalchemy.sql.ddl.SchemaGenerator.visit_index", killed)
        with pytest.raises(Killed):
            file_storage(file, create=True)
    assert not file.exists()
    for _ in range(2):
        opened = file_storage(file, create=True)
        optuna.create_study(study_name="s", storage=opened, load_if_exists=True)
    assert len(file_storage(file, create=False).get_all_studies()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["study.db"]


def foreign_database(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE customers (name TEXT)")
        database.commit()


def test_reading_creates_no_table_and_no_file(tmp_path: Path) -> None:
    foreign_database(tmp_path / "foreign.db")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for url, reason in {
        f"sqlite:///{tmp_path}/foreign.db": "no Optuna study is in it",
        f"sqlite:///{tmp_path}/none.db": "cannot open it",
        f"sqlite:///{tmp_path}/no/folder.db": "cannot open it",
        f"journal://{tmp_path}/none.log": "there is no such file",
    }.items():
        with pytest.raises(UserError, match=reason):
            existing_storage(url)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_write_waits_for_a_reader_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "study.db"
    study = optuna.create_study(study_name="s", storage=file_storage(file, create=True))
    reader = sqlite3.connect(file, check_same_thread=False)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM studies").fetchone()
    release = threading.Timer(0.3, reader.close)
    release.start()
    study.set_user_attr("a", 1)
    release.join()
    assert study.user_attrs == {"a": 1}


def test_a_lock_that_stays_is_called_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "WRITE_WAIT_S", 0.1)
    file = tmp_path / "study.db"
    study = optuna.create_study(study_name="s", storage=file_storage(file, create=True))
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(storage.STORAGE_ERRORS) as error:
            study.set_user_attr("a", 1)
    assert is_locked(error.value)
    assert reason_of(error.value) == "database is locked"


def test_no_text_with_urls_shows_a_password() -> None:
    text = "from postgresql://me:secret@db/x to s3://bucket/y and mysql://u:p@h/z?password=q."
    shown = without_passwords(text)
    assert "secret" not in shown
    assert ":p@" not in shown
    assert "password=q" not in shown
    assert "s3://bucket/y" in shown
