"""The run directory: choosing its name, creating it, locking it for one process.

Imports little, so that a run has its directory, and can be resumed, from its first second.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
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
from headsearch.runs.signals import interrupted_while_loaded
from headsearch.runs.storage_url import masked
from headsearch.version import VERSION

CONFIG = "config.yaml"
"""The file with the run's settings."""
LOCK = ".lock"
"""The lock file of the process that uses the directory."""
HOLDER = ".holder"
"""The file that names the process that uses the directory, for error messages."""


def new_run_directory(out: Path | None, label: str) -> Path:
    """The path of a run directory that does not exist yet; nothing is created.

    Args:
        out: the path that the user gave, or None for a new directory under results/.
        label: the end of the new directory's name, after the time.

    Raises:
        UserError: `out` exists.
    """
    if out is not None:
        try:
            exists = out.exists()
        except OSError as error:
            raise UserError(f"{out}: cannot be a run directory: {error.strerror}") from None
        if exists:
            raise UserError(f"{out}: the run directory exists already; choose another --out")
        return out
    stem = f"{datetime.now():%Y%m%d-%H%M%S}-{re.sub(r'[^A-Za-z0-9.]+', '-', label).strip('-')}"
    path = Path("results") / stem
    number = 2
    while path.exists():
        path = Path("results") / f"{stem}-{number}"
        number += 1
    return path


def create(path: Path, config: Mapping[str, Any]) -> None:
    """Creates the run directory with its config.yaml.

    Raises:
        UserError: it cannot be created.
    """
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{path}: cannot write the run directory: {error.strerror}") from None
    write_config(path, config)


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

    This happens before data and storage are opened; from then on the run can be resumed. If the
    settings turn out to be unusable within the block (UserError), the directory is removed again.
    An interrupt leaves it, and becomes an InterruptedAtOnceError that names it.

    Args:
        config: the settings as far as they are known; some depend on the device.
        given: the settings that the user gave.

    Raises:
        UserError: the directory exists or cannot be created.
    """
    path = new_run_directory(config.out, run_label(config))
    new_parents = [parent for parent in path.absolute().parents if not parent.exists()]
    settings = {name: str(value) for name, value in given.items()} | {"out": str(path)}
    settings |= {k: v for k, v in absolute_locations(settings).items() if v is not None}
    if "storage" in settings:  # config.yaml must not contain a password
        settings["storage"] = masked(settings["storage"])
    create(path, {**settings, "versions": {"headsearch": VERSION}})
    lock = hold(path)
    try:
        with interrupted_while_loaded(path):
            yield path
    except UserError:
        lock.release()
        # Anything else in it may be worth keeping.
        if {file.name for file in path.iterdir()} <= {CONFIG, LOCK, HOLDER}:
            shutil.rmtree(path)
            for parent in new_parents:
                with suppress(OSError):
                    parent.rmdir()
        raise
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


def abandoned(path: Path) -> bool:
    """Whether a process of this machine used a run directory, and none uses it now.

    False if the last process ran on another machine, because its state cannot be seen from here.
    """
    holder = path / HOLDER
    if not holder.is_file():
        return False
    if f" on {socket.gethostname()} since " not in holder.read_text(encoding="utf-8"):
        return False
    return not _is_held(path.absolute() / LOCK)


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
