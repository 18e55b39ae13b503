"""Snapshots: everything that changes during a run, in one file, from which the run is resumed.

Tensors are stored in a safetensors file and everything else as JSON in its metadata, so reading a
snapshot executes no code. A snapshot is written to a temporary file, flushed to the disk and
renamed, and the previous one is kept, so an interruption at any point leaves a complete snapshot.
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
"""The folder of the snapshots within the run directory."""
LATEST, BEFORE, ASIDE = "snapshot.safetensors", "snapshot-before.safetensors", "snapshot.writing"
RUNG = "snapshot-rung.safetensors"
"""The snapshot of the last rung, which a run returns to if the base diverges. The time of other
snapshots depends on a clock or a signal, on which the results of a run must not depend."""
FORMAT = "1"
"""Format of the record; a snapshot of another format cannot be resumed from."""


@dataclass(frozen=True)
class Snapshot:
    """The state that a run is resumed from.

    Attributes:
        tensors: weights, optimizer moments and other tensors, by name.
        record: everything else, as JSON can represent it (NaN included).
    """

    tensors: Mapping[str, Tensor]
    record: Mapping[str, Any]


def write_snapshot(run_directory: Path, snapshot: Snapshot, *, at_rung: bool = False) -> None:
    """Writes a snapshot; the latest one is kept as the previous one.

    Args:
        run_directory: the run's.
        snapshot: to write.
        at_rung: whether the run is at a rung; the snapshot then also replaces the last rung's.

    Raises:
        OSError: it cannot be written; the existing snapshots are unchanged.
    """
    folder = run_directory / FOLDER
    folder.mkdir(exist_ok=True)
    temporary, latest = folder / ASIDE, folder / LATEST
    tensors = {
        # Copied: the file format does not support tensors that share memory.
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in snapshot.tensors.items()
    }
    record = json.dumps(snapshot.record)
    temporary.unlink(missing_ok=True)  # may be a second name of the rung's snapshot
    try:
        save_file(tensors, temporary, metadata={"format": FORMAT, "record": record})
    except SafetensorError as error:
        raise OSError(str(error)) from None
    _flush(temporary)
    # First: once it is the latest, training resumes from it and may have to return to the rung.
    if at_rung:
        _link(temporary, folder / RUNG)
    if latest.exists():
        latest.replace(folder / BEFORE)
    temporary.replace(latest)
    _flush(folder)


def read_snapshot(run_directory: Path) -> Snapshot | None:
    """The latest complete snapshot of a run; None if there is none.

    Raises:
        UserError: this headsearch cannot read the format of the snapshot, or it holds NaN.
    """
    return _read_first(run_directory, (LATEST, BEFORE))


def read_record(run_directory: Path) -> Mapping[str, Any] | None:
    """The record of the latest complete snapshot, without its tensors; None if there is none."""
    found = _read_first(run_directory, (LATEST, BEFORE), tensors=False)
    return found.record if found is not None else None


def has_damaged_snapshot(run_directory: Path) -> bool:
    """Whether there are files of snapshots, none of which is complete."""
    files = [run_directory / FOLDER / name for name in (LATEST, BEFORE)]
    return any(file.exists() for file in files) and read_record(run_directory) is None


def check_start(
    run_directory: Path, left: Snapshot | None, *, has_results: bool, start_over: bool
) -> None:
    """Checks that a run in an existing directory may start at its snapshot, or at its first step.

    Results of a run that trains again from its first step must not be mixed with earlier ones.

    Args:
        run_directory: the run's.
        left: its snapshot, if one could be read.
        has_results: whether it has trained, so that there must have been a snapshot.
        start_over: whether it is to discard its results and start from its first step.

    Raises:
        UserError: it has results and no snapshot, unless it starts over; or it has a snapshot, and
            is to start over.
    """
    if start_over and left is not None:
        raise UserError(f"{run_directory} has a snapshot to continue from: leave out --start-over")
    if not start_over and left is None and has_results:
        raise UserError(
            f"{run_directory}: both snapshots are missing or damaged, so it cannot continue where "
            f"it was: headsearch resume {run_directory} --start-over discards its results and "
            "trains again from the first step"
        )


def read_rung_snapshot(run_directory: Path) -> Snapshot | None:
    """The snapshot of the last rung; None if there is none.

    Raises:
        UserError: this headsearch cannot read the format of the snapshot, or it holds NaN.
    """
    return _read_first(run_directory, (RUNG,))


def _read_first(
    run_directory: Path, names: Iterable[str], *, tensors: bool = True
) -> Snapshot | None:
    """The first of these snapshots that is complete, with or without its tensors."""
    for name in names:
        file = run_directory / FOLDER / name
        if not file.is_file():
            continue
        try:
            with safe_open(file, framework="pt") as opened:
                metadata = opened.metadata() or {}
                keys = opened.keys() if tensors else ()
                loaded = {key: opened.get_tensor(key) for key in keys}
            record = json.loads(metadata.get("record", ""))
        except (SafetensorError, OSError, ValueError):
            continue  # incomplete: the file system lost data that it had flushed
        if metadata.get("format") != FORMAT:
            raise UserError(
                f"{file}: a snapshot of format {metadata.get('format')}, and this headsearch reads "
                f"format {FORMAT}: resume with the version that its config.yaml names"
            )
        _check_numbers(file, loaded)
        return Snapshot(loaded, record)
    return None


def _check_numbers(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises UserError if a snapshot holds NaN, which no step of a training leaves behind."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.isnan().any():
            raise UserError(
                f"{file}: damaged: {name} holds values that are not numbers (NaN); delete the "
                "file to resume from the snapshot before it, or start the run again"
            )


def _link(file: Path, name: Path) -> None:
    """Gives a file a second name, which another file may have had; a copy without link support.

    The file must not be modified under either name afterwards.
    """
    temporary = name.with_suffix(".linking")
    temporary.unlink(missing_ok=True)
    try:
        os.link(file, temporary)
    except OSError:
        shutil.copyfile(file, temporary)
        _flush(temporary)
    temporary.replace(name)


def _flush(path: Path) -> None:
    """Waits until a file or a folder is written to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_weights(
    path: Path, tensors: dict[str, Tensor], entry: tuple[str, str] = ("format", "pt")
) -> None:
    """Writes contiguous tensors that share no memory as safetensors, completely or not at all.

    Args:
        path: the file.
        tensors: the weights by name.
        entry: key and value of the file's metadata. There is one alone because safetensors writes
            several in a random order, and the same run has to give the same bytes.
    """
    write_atomically(path, save(tensors, metadata=dict([entry])))
