"""The first weights of a base, where all machines find them, under the hash of their content.

A seed decides them, but on another processor, or with another PyTorch, a last bit may come out
otherwise, and every cohort has to start from the same.
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
    """Writes the weights of a network, unless they are there; their hash.

    Args:
        location: a folder, by a path or by any URL that fsspec knows.

    Raises:
        UserError: it cannot be written.
    """
    tensors = {name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()}
    content = save(tensors)
    name = hashlib.sha256(content).hexdigest()
    try:
        files, folder = fsspec.url_to_fs(location)
        files.makedirs(folder, exist_ok=True)
        target = f"{folder}/{name}{SUFFIX}"
        if not files.exists(target):
            aside = f"{folder}/.{name}.{os.getpid()}"
            files.pipe_file(aside, content)
            files.mv(aside, target)
    except Exception as error:  # each kind of place has errors of its own
        raise UserError(f"--shared {location}: cannot write there: {_first_line(error)}") from None
    return name


def fetch(location: str, name: str, cache: Path) -> Path:
    """A file of weights of this hash, fetched unless it is in the cache.

    Raises:
        UserError: it cannot be fetched, or holds something else.
    """
    held = cache / f"{name}{SUFFIX}"
    if held.is_file() and hashlib.sha256(held.read_bytes()).hexdigest() == name:
        return held
    try:
        cache.mkdir(parents=True, exist_ok=True)
        files, folder = fsspec.url_to_fs(location)
        with tempfile.TemporaryDirectory(dir=cache) as aside:
            fetched = Path(aside) / "fetched"
            files.get_file(f"{folder}/{name}{SUFFIX}", str(fetched))
            content = fetched.read_bytes()
    except Exception as error:
        raise UserError(
            f"{location}: cannot fetch the base's first weights: {_first_line(error)}"
        ) from None
    if hashlib.sha256(content).hexdigest() != name:
        raise UserError(
            f"{location}/{name}{SUFFIX} holds something other than the study was made with: "
            "submit it again"
        )
    write_atomically(held, content)
    return held


def absolute(location: str) -> str:
    """A location that means the same from every directory."""
    return location if "://" in location else str(Path(location).absolute())


def _first_line(error: Any) -> str:
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
