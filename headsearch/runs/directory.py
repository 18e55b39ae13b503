"""The run directory: choosing its name, creating it, locking it for one process.

Imports little, so that a run has its directory, and can be resumed, from its first second.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from headsearch.config import formats
from headsearch.config.locations import absolute_locations
from headsearch.config.settings import RunConfig
from headsearch.config.yaml_file import read_yaml
from headsearch.errors import UserError
from headsearch.runs.signals import (
    InterruptedAtOnceError,
    interrupted_while_loaded,
    sigterm_raised,
)
from headsearch.runs.storage_url import masked
from headsearch.version import VERSION

CONFIG = "config.yaml"
"""The file with the run's settings."""
STUDY = "study.db"
"""The file with the run's Optuna study, unless its settings name another storage."""
LOCK = ".lock"
"""The lock file of the process that uses the directory."""
HOLDER = ".holder"
"""The file that names the process that uses the directory, for error messages."""
OF_A_START = {CONFIG, LOCK, HOLDER, STUDY, f"{STUDY}-journal"}
"""Files that a run writes before its first result."""
OF_A_VOLUME = {"lost+found"}
"""What the root of an empty file system may hold."""


def new_run_directory(out: Path | None, label: str) -> Path:
    """The path of a run directory that does not exist yet, or is empty; nothing is created.

    Args:
        out: the path that the user gave, or None for a new directory under results/.
        label: the end of the new directory's name, after the time.

    Raises:
        UserError: `out` exists and is not an empty directory.
    """
    if out is not None:
        try:
            free = out != Path() and out.is_dir() and _is_empty(out)  # an empty text gives Path()
            taken = out.exists() and not free
        except OSError as error:
            raise UserError(f"{out}: cannot be a run directory: {error.strerror}") from None
        if taken:
            raise UserError(f"{out}: the run directory exists already; choose another --out")
        return out
    stem = f"{datetime.now():%Y%m%d-%H%M%S}-{re.sub(r'[^A-Za-z0-9.]+', '-', label).strip('-')}"
    path = Path("results") / stem
    number = 2
    while path.exists():
        path = Path("results") / f"{stem}-{number}"
        number += 1
    return path


def _is_empty(path: Path) -> bool:
    return {file.name for file in path.iterdir()} <= OF_A_VOLUME


def create(path: Path, config: Mapping[str, Any]) -> list[Path]:
    """Creates the run directory with its config.yaml.

    Returns:
        The directories that were made, innermost first, for `undo`. An empty directory that existed
        is not among them.

    Raises:
        UserError: it cannot be created, or exists and is not empty.
    """
    new = [each for each in (path, *path.absolute().parents) if not each.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not _is_empty(path):
            raise UserError(f"{path}: the run directory exists already; choose another --out")
        write_config(path, config)
    except OSError as error:
        undo(path, new)
        raise UserError(f"{path}: cannot write the run directory: {error.strerror}") from None
    except UserError:
        undo(path, new)
        raise
    return new


def undo(path: Path, new: Iterable[Path]) -> None:
    """Removes what the start of a run wrote, unless the run directory holds anything else.

    Args:
        path: the run directory.
        new: the directories that were made for it (`create`).
    """
    names = {file.name for file in path.iterdir()} if path.is_dir() else set[str]()
    if not names <= OF_A_START | OF_A_VOLUME:
        return
    for name in names & OF_A_START:
        (path / name).unlink(missing_ok=True)
    for directory in new:
        with suppress(OSError):
            directory.rmdir()


@contextmanager
def undone_if_it_fails(path: Path, new: Sequence[Path] | None, lock: FileLock) -> Iterator[None]:
    """In this block a run starts. If it fails, its directory is unlocked, and its start undone.

    An interrupt names the directory (InterruptedAtOnceError) if that stays, and only then.

    Args:
        path: the run directory.
        new: the directories that were made for it (`create`); None if another made it, and nothing
            is undone.
        lock: of the run directory.
    """
    try:
        yield
    except BaseException as error:
        lock.release()
        if new is not None:
            undo(path, new)
        if isinstance(error, KeyboardInterrupt) and (path / CONFIG).is_file():
            with interrupted_while_loaded(path):
                raise
        if isinstance(error, InterruptedAtOnceError):
            raise KeyboardInterrupt(error.number) from None
        raise


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Writes the config.yaml of a run directory.

    Raises:
        UserError: it cannot be written.
    """
    try:
        write_atomically(
            path / CONFIG,
            "# Every resolved setting of this run (preset < config file < flag), written before "
            "training.\n"
            + yaml.safe_dump(
                {formats.KEY: formats.RUN, **config}, sort_keys=False, allow_unicode=True
            ),
        )
    except OSError as error:
        raise UserError(f"{path}: cannot write the run directory: {error.strerror}") from None


def read_config(path: Path) -> dict[str, Any]:
    """The contents of the config.yaml of a run directory, without the format number.

    Raises:
        UserError: there is none, it is not that of a run, or a later headsearch wrote it.
    """
    file = path / CONFIG
    if not file.is_file():
        raise UserError(f"{path}: not a run directory: it has no {CONFIG}")
    config = read_yaml(file).plain()
    if not isinstance(config, dict):
        raise UserError(f"{file}: not the config of a run")
    formats.check_format(config.pop(formats.KEY, None), formats.RUN, str(file))
    return config


def run_label(config: RunConfig) -> str:
    """The end of the name of a search's new run directory."""
    return f"{config.base}-{Path(config.space).stem}"


@contextmanager
def claimed(config: RunConfig, given: Mapping[str, Any]) -> Iterator[Path]:
    """Creates and locks a new run directory that contains the given settings.

    This happens before data and storage are opened; from then on a run that loses its power can be
    resumed. If the block ends by an error or a signal before the run wrote any result, the
    directory is removed again. An interrupt that leaves it becomes an InterruptedAtOnceError.

    Args:
        config: the settings as far as they are known; some depend on the device.
        given: the settings that the user gave.

    Raises:
        UserError: the directory exists or cannot be created.
        TerminatedError: SIGTERM came before the run heard signals itself.
    """
    path = new_run_directory(config.out, run_label(config))
    settings = {name: str(value) for name, value in given.items()} | {"out": str(path)}
    settings |= {k: v for k, v in absolute_locations(settings).items() if v is not None}
    if "storage" in settings:  # config.yaml must not contain a password
        settings["storage"] = masked(settings["storage"])
    new = create(path, {**settings, "versions": {"headsearch": VERSION}})
    lock = hold(path)
    try:
        with undone_if_it_fails(path, new, lock), sigterm_raised():
            yield path
    finally:
        lock.release()


def hold(path: Path) -> FileLock:
    """Locks a run directory for this process, until the lock is released or the process ends.

    The operating system releases the lock with the process, so none remains after a crash. A
    process that already holds the lock may take it again, and must release it as often.

    Raises:
        UserError: another process holds it, or the directory cannot be written.
    """
    lock = FileLock(path.absolute() / LOCK, is_singleton=True)
    try:
        lock.acquire(timeout=0)
        (path / HOLDER).write_text(
            f"process {os.getpid()} on {socket.gethostname()} since "
            f"{datetime.now():%Y-%m-%d %H:%M:%S}",
            encoding="utf-8",
        )
    except Timeout:
        holder = path / HOLDER
        who = holder.read_text(encoding="utf-8") if holder.is_file() else "another process"
        raise UserError(f"{path} is held by {who}: wait for it, or stop it") from None
    except OSError as error:
        raise UserError(f"{path}: cannot write into it: {error.strerror}") from None
    return lock


def in_use(path: Path) -> bool | None:
    """Whether a process uses a run directory now; it is only read.

    Returns:
        None if the last process to use it ran on another machine, because its state cannot be seen
        from here; False if no process ever did.
    """
    holder = path / HOLDER
    if not holder.is_file():
        return False
    if f" on {socket.gethostname()} since " not in holder.read_text(encoding="utf-8"):
        return None
    return _is_held(path.absolute() / LOCK)


def abandoned(path: Path) -> bool:
    """Whether a process of this machine used a run directory, and none uses it now."""
    return (path / HOLDER).is_file() and in_use(path) is False


def _is_held(lock: Path) -> bool:
    """Whether a process holds a lock; True if that cannot be found out.

    The file is only read: the directory may be an archive, or that of another user.
    """
    if sys.platform == "win32":
        probe = FileLock(lock, is_singleton=True)
        try:
            if not probe.is_locked:  # by this process
                probe.acquire(timeout=0)
                probe.release()
                return False
        except (Timeout, OSError):
            pass
        return True
    import fcntl  # what FileLock locks with; only POSIX has it

    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces the contents of a file, so that a reader sees either the old or the new contents."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            # Without fsync, a crash after the renaming can leave an empty file.
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)  # mkstemp allows only the owner to read
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
