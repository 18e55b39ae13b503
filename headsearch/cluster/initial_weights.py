"""Stores a base's initial weights in a shared folder, in files named by the hash of their content.

A seed determines the weights, but another processor or PyTorch version may round the last bit
differently, and every cohort has to start from the same weights.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import fsspec
from safetensors.torch import save
from torch import nn

from headsearch.errors import UserError
from headsearch.runs.directory import write_atomically

SUFFIX = ".safetensors"


def share(location: str, network: nn.Module) -> str:
    """Writes the weights of a network unless the folder has them; returns their SHA-256 hash.

    Args:
        location: a folder, as a path or as any URL that fsspec supports.
        network: the network whose state is written, as safetensors.

    Raises:
        UserError: the folder cannot be written to.
    """
    tensors = {name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()}
    content = save(tensors)
    name = hashlib.sha256(content).hexdigest()
    try:
        files, folder = fsspec.url_to_fs(location)
        files.makedirs(folder, exist_ok=True)
        target = f"{folder}/{name}{SUFFIX}"
        if not files.exists(target):
            # Moved into place when complete, so that no machine fetches half a file.
            partial = f"{folder}/.{name}.{os.getpid()}"
            files.pipe_file(partial, content)
            files.mv(partial, target)
    except Exception as error:  # every kind of file system raises its own errors
        raise UserError(f"--shared {location}: cannot write there: {_first_line(error)}") from None
    return name


def fetch(location: str, name: str, cache: Path) -> Path:
    """Returns a local file with the weights of this hash, fetching it unless it is in the cache.

    Args:
        location: the folder given to `share`.
        name: the hash that `share` returned.
        cache: a local folder.

    Raises:
        UserError: the file cannot be fetched, or its content does not have this hash.
    """
    cached = cache / f"{name}{SUFFIX}"
    if cached.is_file() and hashlib.sha256(cached.read_bytes()).hexdigest() == name:
        return cached
    try:
        cache.mkdir(parents=True, exist_ok=True)
        files, folder = fsspec.url_to_fs(location)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            fetched = Path(temporary) / "fetched"
            files.get_file(f"{folder}/{name}{SUFFIX}", str(fetched))
            content = fetched.read_bytes()
    except Exception as error:
        raise UserError(
            f"{location}: cannot fetch the base's first weights: {_first_line(error)}"
        ) from None
    if hashlib.sha256(content).hexdigest() != name:
        raise UserError(
            f"{location}/{name}{SUFFIX} holds something other than the weights that the study was "
            "created with: submit the study again"
        )
    write_atomically(cached, content)
    return cached


def absolute(location: str) -> str:
    """A location as an absolute path, so that it is valid in every directory; URLs stay."""
    return location if "://" in location else str(Path(location).absolute())


def _first_line(error: Any) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
