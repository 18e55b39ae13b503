"""Opens Optuna storages: SQLite, PostgreSQL, or a journal file.

All code that opens a study opens its storage here, so a URL has the same meaning everywhere. A
storage that is only to be read is opened by `existing_storage`, which creates and writes nothing.
"""

from __future__ import annotations

import sqlite3
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from headsearch.errors import UserError
from headsearch.runs.storage_url import masked, unmasked

STORAGE_ERRORS = (SQLAlchemyError, StorageInternalError)
"""Errors of Optuna's storages when they cannot be read or written."""
DRIVERS = {
    # dialect: SQLAlchemy's default driver, the driver of our extra, the name of that extra
    "postgresql": ("psycopg2", "psycopg", "postgresql"),
}
WRITE_WAIT_S, READ_WAIT_S = 30.0, 5.0
"""Seconds to wait for a SQLite file that another process has locked: to write, or only to read."""
OF_OPTUNA = ("studies", "version_info", "alembic_version")
"""Tables of every database that Optuna has set up; the last two hold one row each."""


class NoStorageError(UserError):
    """There is no storage to be read: no file, or a database that Optuna has not set up."""


def open_storage(url: str) -> BaseStorage:
    """The storage of a URL, which is set up if it is new; a hidden password is looked up.

    Args:
        url: SQLAlchemy's (`sqlite:///…`, `postgresql://…`), or `journal:///FILE`.

    Raises:
        UserError: it cannot be opened.
    """
    return _opened(url, create=True)


def existing_storage(url: str) -> BaseStorage:
    """The storage of a URL as `open_storage`, only to be read: nothing is created or written.

    Raises:
        NoStorageError: there is no file, or Optuna has not set it up.
        UserError: it cannot be opened.
    """
    return _opened(url, create=False)


def file_storage(file: Path, *, create: bool) -> BaseStorage:
    """The storage in a SQLite file, whatever characters are in its path.

    Args:
        file: the file.
        create: whether it is set up if it is new; if not, it is only to be read.

    Raises:
        NoStorageError: Optuna has not set it up, and it is not to be created.
        Exception: an error of Optuna or of SQLAlchemy, if it cannot be opened otherwise.
    """
    if create and not file.exists():
        _set_up(file)
    options = _of_file(file, "rwc" if create else "rw")
    return _database("sqlite://", options, str(file), create=create)


def _set_up(file: Path) -> None:
    """Sets up a database in a new file, which appears once it is whole.

    A process that is killed between a table and its index would leave a file whose missing index
    nobody adds: the same study could then be created twice.
    """
    new = file.with_name(f".{file.name}.new")
    for left in (new, new.with_name(f"{new.name}-journal")):
        left.unlink(missing_ok=True)
    RDBStorage("sqlite://", engine_kwargs=_of_file(new, "rwc")).engine.dispose()
    new.replace(file)


def _opened(url: str, *, create: bool) -> BaseStorage:
    url = unmasked(url)
    try:
        if url.startswith("journal://"):
            file = url.removeprefix("journal://")
            if not create and not Path(file).is_file():
                raise NoStorageError(f"--storage {url}: there is no such file")
            return JournalStorage(JournalFileBackend(file))
        known, where = _with_driver(make_url(url)), f"--storage {masked(url)}"
        if known.get_backend_name() == "sqlite" and known.database and not known.query:
            of_file = _of_file(Path(known.database), "rwc" if create else "ro")
            return _database("sqlite://", of_file, where, create=create)
        # Detects and replaces connections that a restarted database has dropped.
        ping = {"pool_pre_ping": True} if known.get_backend_name() in DRIVERS else {}
        shown = known.render_as_string(hide_password=False)
        return _database(shown, ping, where, create=create)
    except UserError:
        raise
    except Exception as error:  # each kind of storage has its own errors
        raise UserError(f"--storage: cannot open it: {reason_of(error)}") from None


def _of_file(file: Path, mode: str) -> dict[str, Any]:
    """Arguments of SQLAlchemy for a SQLite file.

    A URL cannot name a file with `?` in its path, and Optuna formats the braces in a URL.

    Args:
        file: the file.
        mode: SQLite's: `rwc` creates a missing file, `rw` does not, `ro` never writes.
    """
    uri = f"{file.absolute().as_uri()}?mode={mode}"
    wait = WRITE_WAIT_S if mode == "rwc" else READ_WAIT_S

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(uri, uri=True, timeout=wait, check_same_thread=False)

    return {"creator": connect, "poolclass": QueuePool}


def _database(url: str, options: dict[str, Any], where: str, *, create: bool) -> BaseStorage:
    """The storage in a database.

    Args:
        url: SQLAlchemy's.
        options: further arguments of SQLAlchemy.
        where: how an error names the database.
        create: whether it is set up if it is new; if not, opening it writes nothing.

    Raises:
        NoStorageError: Optuna has not set it up, and it is not to be created.
    """
    if not create:
        engine = create_engine(url, **options)
        try:
            if not _is_set_up(engine):
                raise NoStorageError(f"{where}: no Optuna study is in it")
        finally:
            engine.dispose()
    url = url.replace("{", "{{").replace("}", "}}")  # Optuna formats the URL
    backend = RDBStorage(url, engine_kwargs=options, skip_table_creation=not create)
    return optuna.storages.get_storage(backend)


def _is_set_up(engine: Engine) -> bool:
    """Whether Optuna has set up a database, so that opening it as a storage writes nothing."""
    if not set(OF_OPTUNA) <= set(inspect(engine).get_table_names()):
        return False
    with engine.connect() as connection:
        counts = (
            connection.execute(text(f"SELECT COUNT(*) FROM {table}")).scalar()
            for table in OF_OPTUNA[1:]
        )
        return all(counts)


def reason_of(error: Exception) -> str:
    """The first line of a storage's error message, from the underlying error if there is one.

    Optuna's own error only says that there is a cause. No driver's message contains a password.
    """
    cause: BaseException = error
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        cause = error.__cause__
    if isinstance(cause, DBAPIError) and cause.orig is not None:
        cause = cause.orig
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else repr(cause)


def is_locked(error: Exception) -> bool:
    """Whether a SQLite file could not be used because another process has locked it."""
    return "is locked" in reason_of(error)


def check_storage(url: str) -> None:
    """Checks that a storage that the user named can be opened and read.

    Raises:
        UserError: it cannot.
    """
    storage = open_storage(url)
    try:
        storage.get_all_studies()
    except Exception as error:
        raise UserError(f"--storage: cannot open it: {reason_of(error)}") from None


def _with_driver(url: URL) -> URL:
    """The URL with an installed driver, if it names none.

    Raises:
        UserError: no driver is installed.
    """
    dialect, _, driver = url.drivername.partition("+")
    if dialect not in DRIVERS:
        return url
    default, ours, extra = DRIVERS[dialect]
    wanted = driver or (default if find_spec(default) else ours)
    if find_spec(wanted) is None:
        raise UserError(
            f"--storage {dialect}://… needs {wanted}: pip install 'headsearch[{extra}]'"
        )
    return url.set(drivername=f"{dialect}+{wanted}") if wanted == ours else url
