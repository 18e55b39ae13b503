"""Where Optuna keeps studies: SQLite, PostgreSQL, MySQL, a journal file, or a gRPC proxy of these.

Whatever opens a study opens its storage here, so that a storage means the same everywhere.
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
except ImportError:  # then no storage raises it

    class RpcError(Exception):  # type: ignore[no-redef]
        """Stands for gRPC's where it is not installed."""


STORAGE_ERRORS = (SQLAlchemyError, StorageInternalError, RpcError)
"""What Optuna's storages raise when they cannot be read or written."""
OUT_OF_REACH = (*STORAGE_ERRORS, OSError, RuntimeError)
"""What their calls raise while they are away: a journal's lock has a plain RuntimeError."""
DRIVERS = {
    # dialect: SQLAlchemy's own choice, the package of our extra, and what that extra is called
    "postgresql": ("psycopg2", "psycopg", "postgresql"),
    "mysql": ("MySQLdb", "pymysql", "mysql"),
}
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
"""Between tries at a storage that does not answer."""


def open_storage(url: str) -> BaseStorage:
    """The storage of a URL, with a password that was hidden in it looked up.

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
        # A connection that a restarted database has dropped is noticed, and made anew.
        ping = {"pool_pre_ping": True} if known.get_backend_name() in DRIVERS else {}
        backend = RDBStorage(known.render_as_string(hide_password=False), engine_kwargs=ping)
        return optuna.storages.get_storage(backend)
    except UserError:
        raise
    except Exception as error:  # each kind of storage has errors of its own
        raise UserError(f"--storage: cannot open it: {reason_of(error)}") from None


@contextmanager
def within_reach() -> Iterator[None]:
    """In this block a storage that fails is told in a line.

    Raises:
        UserError: it did.
    """
    try:
        yield
    except STORAGE_ERRORS as error:
        raise UserError(f"the storage is out of reach: {reason_of(error)}") from None


def reason_of(error: Exception) -> str:
    """The first line of what a storage says: the cause, where Optuna only says that there is one.

    No driver's message holds a password.
    """
    cause = error.__cause__ if isinstance(error, StorageInternalError) else None
    said = str(cause or error).strip().splitlines()
    return said[0] if said else repr(error)


def check_storage(url: str) -> None:
    """Opens a storage that the user named.

    Raises:
        UserError: it cannot be opened.
    """
    storage = open_storage(url)
    try:
        storage.get_all_studies()
    except Exception as error:
        raise UserError(f"--storage: cannot open it: {reason_of(error)}") from None


def check_shared(url: str) -> None:
    """Refuses what several machines cannot share: a claim must be one worker's alone.

    Raises:
        UserError: it is SQLite, whose claims two workers may both win.
    """
    if url.startswith("sqlite"):
        raise UserError(
            f"--storage {masked(url)}: SQLite cannot be shared by workers; use postgresql://…, "
            "mysql://…, journal:///FILE on a shared file system, or grpc://HOST:PORT"
        )


def _proxy(url: str) -> BaseStorage:
    if find_spec("grpc") is None or find_spec("google.protobuf") is None:
        raise UserError("--storage grpc://… needs grpcio: pip install 'headsearch[grpc]'")
    where = urlsplit(url)
    try:
        port = where.port
    except ValueError:
        port = None
    if not where.hostname or port is None:
        raise UserError(f"--storage {masked(url)}: grpc://HOST:PORT is what such a URL is like")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        proxy = optuna.storages.GrpcStorageProxy(host=where.hostname, port=port)
    try:
        proxy.wait_server_ready(timeout=int(LONGEST_PAUSE_S))
    except ConnectionError:
        raise UserError(f"--storage {masked(url)}: nobody answers there") from None
    return proxy


def _with_driver(url: URL) -> URL:
    """The URL with a driver that is there, where it names none.

    Raises:
        UserError: none is.
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
    """What a call at a storage returns; asked again, for so long, while the storage fails.

    A database that restarts is gone for seconds. Whether a call that failed was carried out is not
    known, so it must be one that may be carried out twice.

    Raises:
        Exception: what the storage raised last.
    """
    end, wait = clock() + seconds, FIRST_PAUSE_S
    while True:
        try:
            return call()
        except UpdateFinishedTrialError:  # an answer, though it is a RuntimeError
            raise
        except OUT_OF_REACH:
            left = end - clock()
            if left <= 0:
                raise
        pause(min(wait, left))
        wait = min(2 * wait, LONGEST_PAUSE_S)
