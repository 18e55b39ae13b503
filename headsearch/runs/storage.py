"""Opens Optuna storages: SQLite, PostgreSQL, MySQL, a journal file, or a gRPC proxy of these.

All code that opens a study opens its storage here, so a URL has the same meaning everywhere.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TypeVar
from urllib.parse import urlsplit

import optuna
from optuna.exceptions import (
    ExperimentalWarning,
    StorageInternalError,
    UpdateFinishedTrialError,
)
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from headsearch.errors import UserError
from headsearch.runs.storage_url import masked, unmasked

T = TypeVar("T")

try:
    from grpc import RpcError
except ImportError:  # not installed, so no storage can raise it

    class RpcError(Exception):  # type: ignore[no-redef]
        """Stands for gRPC's error if gRPC is not installed."""


STORAGE_ERRORS = (SQLAlchemyError, StorageInternalError, RpcError)
"""Errors of Optuna's storages when they cannot be read or written."""
OUT_OF_REACH = (*STORAGE_ERRORS, OSError, RuntimeError)
"""Errors of calls while a storage is unreachable: a journal's lock raises a plain RuntimeError."""
DRIVERS = {
    # dialect: SQLAlchemy's default driver, the driver of our extra, the name of that extra
    "postgresql": ("psycopg2", "psycopg", "postgresql"),
    "mysql": ("MySQLdb", "pymysql", "mysql"),
}
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
"""Seconds between attempts to reach a storage: the pause doubles from the first to the longest."""


def open_storage(url: str) -> BaseStorage:
    """The storage of a URL; a password that is hidden in the URL is looked up.

    Args:
        url: SQLAlchemy's (`sqlite:///…`, `postgresql://…`, `mysql://…`), `journal:///FILE`, or
            `grpc://HOST:PORT`.

    Raises:
        UserError: it cannot be opened.
    """
    url = unmasked(url)
    try:
        if url.startswith("grpc://"):
            return _proxy(url)
        if url.startswith("journal://"):
            return JournalStorage(JournalFileBackend(url.removeprefix("journal://")))
        known = _with_driver(make_url(url))
        # Detects and replaces connections that a restarted database has dropped.
        ping = {"pool_pre_ping": True} if known.get_backend_name() in DRIVERS else {}
        backend = RDBStorage(known.render_as_string(hide_password=False), engine_kwargs=ping)
        return optuna.storages.get_storage(backend)
    except UserError:
        raise
    except Exception as error:  # each kind of storage has its own errors
        raise UserError(f"--storage: cannot open it: {reason_of(error)}") from None


@contextmanager
def within_reach() -> Iterator[None]:
    """Turns errors of the storage in this block into one line for the user.

    Raises:
        UserError: the storage failed.
    """
    try:
        yield
    except STORAGE_ERRORS as error:
        raise UserError(f"the storage is out of reach: {reason_of(error)}") from None


def reason_of(error: Exception) -> str:
    """The first line of a storage's error message, from the underlying error if there is one.

    Optuna's own error only says that there is a cause. No driver's message contains a password.
    """
    cause = error.__cause__ if isinstance(error, StorageInternalError) else None
    lines = str(cause or error).strip().splitlines()
    return lines[0] if lines else repr(error)


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


def check_shared(url: str) -> None:
    """Refuses a storage that several machines cannot share.

    Only one worker may win a claim of a task; with SQLite, two can.

    Raises:
        UserError: it is SQLite.
    """
    if url.startswith("sqlite"):
        raise UserError(
            f"--storage {masked(url)}: SQLite cannot be shared by workers; use postgresql://…, "
            "mysql://…, journal:///FILE on a shared file system, or grpc://HOST:PORT"
        )


def _proxy(url: str) -> BaseStorage:
    """The gRPC proxy of a URL. Raises UserError if gRPC is not installed or nobody answers."""
    if find_spec("grpc") is None or find_spec("google.protobuf") is None:
        raise UserError("--storage grpc://… needs grpcio: pip install 'headsearch[grpc]'")
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if not parts.hostname or port is None:
        raise UserError(f"--storage {masked(url)}: must have the form grpc://HOST:PORT")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        proxy = optuna.storages.GrpcStorageProxy(host=parts.hostname, port=port)
    try:
        proxy.wait_server_ready(timeout=int(LONGEST_PAUSE_S))
    except ConnectionError:
        raise UserError(f"--storage {masked(url)}: no server answers there") from None
    return proxy


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


def patiently(
    call: Callable[[], T],
    seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], object] = time.sleep,
) -> T:
    """The result of a call to a storage, repeated for up to `seconds` while the storage fails.

    A database that restarts is unreachable for seconds. It is unknown whether a failed call was
    carried out, so the call must be one that may be carried out twice.

    Args:
        call: the call.
        seconds: how long to repeat it.
        clock: the time in seconds; replaced in tests.
        pause: waits so many seconds; replaced in tests.

    Raises:
        Exception: the last error of the storage.
    """
    end, wait = clock() + seconds, FIRST_PAUSE_S
    while True:
        try:
            return call()
        except UpdateFinishedTrialError:  # an answer of the storage, although a RuntimeError
            raise
        except OUT_OF_REACH:
            left = end - clock()
            if left <= 0:
                raise
        pause(min(wait, left))
        wait = min(2 * wait, LONGEST_PAUSE_S)
