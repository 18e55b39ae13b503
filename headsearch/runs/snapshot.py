"""The snapshot of a run: one file with all that moves, from which it goes on after any end.

Tensors stand in a safetensors file, and all else as JSON in its metadata: reading one executes
nothing. It is written aside, flushed to the disk and renamed, and the one before is kept, so that
whatever interrupts the writing leaves a whole one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from headsearch.errors import UserError
from headsearch.runs.directory import write_atomically

FOLDER = "checkpoint"
LATEST, BEFORE, ASIDE = "snapshot.safetensors", "snapshot-before.safetensors", "snapshot.writing"
RUNG = "snapshot-rung.safetensors"
"""The last rung's, to go back to where the base diverges: when others are written, a clock or a
signal decides, and what a run finds must not hang on either."""
FORMAT = "1"
"""Of the record; a snapshot of another format cannot be gone on from."""


@dataclass(frozen=True)
class Snapshot:
    """What a run needs to go on.

    Attributes:
        tensors: weights, moments and what else lives on a device, by name.
        record: everything else, as JSON can hold it (NaN included).
    """

    tensors: Mapping[str, Tensor]
    record: Mapping[str, Any]


def write_snapshot(run_directory: Path, snapshot: Snapshot, *, at_rung: bool = False) -> None:
    """Writes a snapshot; the one that was there is kept as the one before.

    Args:
        at_rung: whether it is one to go back to; it replaces the last such.

    Raises:
        OSError: it cannot be written; what was there is untouched.
    """
    folder = run_directory / FOLDER
    folder.mkdir(exist_ok=True)
    aside, latest = folder / ASIDE, folder / LATEST
    tensors = {
        # a copy where tensors share memory, which the file format does not know
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in snapshot.tensors.items()
    }
    record = json.dumps(snapshot.record)
    aside.unlink(missing_ok=True)  # by now it may be the rung's under another name
    try:
        save_file(tensors, aside, metadata={"format": FORMAT, "record": record})
    except SafetensorError as error:
        raise OSError(str(error)) from None
    _flush(aside)
    if at_rung:  # first: once it is the latest, training goes on from it and may have to go back
        _link(aside, folder / RUNG)
    if latest.exists():
        latest.replace(folder / BEFORE)
    aside.replace(latest)
    _flush(folder)


def read_snapshot(run_directory: Path) -> Snapshot | None:
    """The latest whole snapshot of a run; None where there is none.

    Raises:
        UserError: it was written by a headsearch whose snapshots this one cannot read.
    """
    return _read_first(run_directory, (LATEST, BEFORE))


def read_rung_snapshot(run_directory: Path) -> Snapshot | None:
    """The snapshot of the last rung, None where there is none; raises as `read_snapshot`."""
    return _read_first(run_directory, (RUNG,))


def _read_first(run_directory: Path, names: Iterable[str]) -> Snapshot | None:
    """The first of these that is whole."""
    for name in names:
        file = run_directory / FOLDER / name
        if not file.is_file():
            continue
        try:
            with safe_open(file, framework="pt") as opened:
                metadata = opened.metadata() or {}
                tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            record = json.loads(metadata.get("record", ""))
        except (SafetensorError, OSError, ValueError):
            continue  # not whole: a file system that lost what it had promised
        if metadata.get("format") != FORMAT:
            raise UserError(
                f"{file}: a snapshot of format {metadata.get('format')}, and this headsearch reads "
                f"format {FORMAT}: go on with the version that its config.yaml names"
            )
        return Snapshot(tensors, record)
    return None


def _link(file: Path, name: Path) -> None:
    """Gives a file a second name, which another file may have had; a copy where links are unknown.

    The file is not to be written to again under either.
    """
    aside = name.with_suffix(".linking")
    aside.unlink(missing_ok=True)
    try:
        os.link(file, aside)
    except OSError:
        shutil.copyfile(file, aside)
        _flush(aside)
    aside.replace(name)


def _flush(path: Path) -> None:
    """Waits until a file or a folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_weights(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes contiguous tensors that share no memory as safetensors, whole or not at all."""
    write_atomically(path, save(tensors, metadata={"format": "pt"}))
