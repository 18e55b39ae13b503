"""The run directory itself: found a name for, made, held by one process at a time.

Light enough to be imported before anything heavy, so that a run has its directory, and can be gone
on with, from its first second.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from headsearch.config import formats
from headsearch.config.settings import RunConfig
from headsearch.config.yaml_file import read_yaml
from headsearch.errors import UserError
from headsearch.runs.storage_url import masked
from headsearch.version import VERSION

CONFIG = "config.yaml"
LOCK = ".lock"
HOLDER = ".holder"


def new_run_directory(out: Path | None, label: str) -> Path:
    """The path of a run directory that does not exist yet; nothing is made.

    Args:
        out: what the user asked for, or None for a fresh directory under results/.
        label: what the fresh directory's name ends with, after the time.

    Raises:
        UserError: `out` exists.
    """
    if out is not None:
        try:
            exists = out.exists()
        except OSError as error:
            raise UserError(f"{out}: no name for a run directory: {error.strerror}") from None
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
    """Makes the run directory with its config.yaml. Raises UserError where that is not possible."""
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{path}: cannot write the run directory: {error.strerror}") from None
    write_config(path, config)


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Writes a run directory's config.yaml. Raises UserError where that is not possible."""
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
    """What config.yaml of a run directory holds, less its format, which is one that is read here.

    Raises:
        UserError: there is none, it is no run's, or a later headsearch wrote it.
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
    """What the name of a search's fresh directory ends with."""
    return f"{config.base}-{Path(config.space).stem}"


@contextmanager
def claimed(config: RunConfig, given: Mapping[str, Any]) -> Iterator[Path]:
    """A fresh run directory, held, with the given settings in it, before anything is opened.

    From then on the run can be gone on with. Where the settings turn out to be unusable within
    the block, nothing is left.

    Args:
        config: the settings as far as they are known; the device may decide on others.
        given: those that were asked for.

    Raises:
        UserError: it exists or cannot be made.
    """
    path = new_run_directory(config.out, run_label(config))
    made = [parent for parent in path.absolute().parents if not parent.exists()]
    settings = {name: str(value) for name, value in given.items()} | {"out": str(path)}
    if "storage" in settings:
        settings["storage"] = masked(settings["storage"])
    create(path, {**settings, "versions": {"headsearch": VERSION}})
    lock = hold(path)
    try:
        yield path
    except UserError:
        lock.release()
        if {file.name for file in path.iterdir()} <= {CONFIG, LOCK, HOLDER}:
            shutil.rmtree(path)
            for parent in made:
                with suppress(OSError):
                    parent.rmdir()
        raise
    finally:
        lock.release()


def hold(path: Path) -> FileLock:
    """Takes a run directory for this process, until the lock is released or the process ends.

    The system gives it up with the process, so that none outlives a crash. A process that holds it
    already may take it again, and releases it as often.

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
    """Whether a process of this machine held a run directory to its own end, and none does now."""
    holder = path / HOLDER
    if not holder.is_file():
        return False
    if f" on {socket.gethostname()} since " not in holder.read_text(encoding="utf-8"):
        return False  # whether another machine's process lives cannot be seen from here
    lock = FileLock(path.absolute() / LOCK, is_singleton=True)
    if lock.is_locked:
        return False
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return False
    lock.release()
    return True


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces a file by this content, so that a reader sees the old one or the new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
