"""Reads the tensors of a weights file, without running code in it and within bounds of memory."""

from __future__ import annotations

import json
import pickle
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from headsearch.errors import UserError
from headsearch.models.bases.shapes import REFUSALS, first_line

UNPACKED = 2
"""A zip may unpack to at most this many times its own size: torch stores tensors uncompressed."""
SLACK = 2**20
"""Bytes that a zip may unpack to in any case."""

_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
_NUMBERS = tuple(
    f"{kind}DType"
    for kind in ("Bool", "Int32", "Int64", "UInt8", "Float16", "Float32", "Float64", "Str", "Bytes")
)
BESIDE_WEIGHTS: Mapping[str, tuple[str, ...]] = {
    "argparse": ("Namespace",),
    "types": ("SimpleNamespace",),
    "datetime": ("datetime", "date", "timedelta"),
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,
    "numpy": ("dtype", "ndarray"),
    "numpy.dtypes": _NUMBERS,
    "numpy.core.multiarray": ("scalar", "_reconstruct"),
    "numpy._core.multiarray": ("scalar", "_reconstruct"),
    "omegaconf.dictconfig": ("DictConfig",),
    "omegaconf.listconfig": ("ListConfig",),
    "omegaconf.base": ("ContainerMetadata", "Metadata"),
    "omegaconf.nodes": ("AnyNode", "IntegerNode", "FloatNode", "BooleanNode", "StringNode"),
    "typing": ("Any",),
}
"""What checkpoints hold beside weights: settings, metrics and paths, by module. None of it is
imported or called: an object that holds nothing is read in its place."""


class _Nothing:
    """Takes the place of an object beside the weights; takes every argument and state."""

    def __new__(cls, *arguments: Any, **named: Any) -> _Nothing:
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **named: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    type(name, (_Nothing,), {"__module__": module, "__qualname__": name})
    for module, names in BESIDE_WEIGHTS.items()
    for name in names
]


class Contents(NamedTuple):
    """What a weights file holds."""

    tensors: dict[str, Tensor]
    """Every tensor by name. The keys of nested dictionaries are part of the name: `model.norm.bias`
    is `norm.bias` in the dictionary under `model`."""
    containers: tuple[str, ...]
    """The names of the nested dictionaries, each with a dot at its end."""
    metadata: Mapping[str, str]
    """The metadata of a safetensors file; empty for other files."""


def read_checkpoint(path: Path) -> Contents:
    """Reads a `.safetensors` file or a torch checkpoint.

    Raises:
        UserError: it is not a regular file, cannot be read, could run code, would unpack to far
            more than its size, or holds no tensors.
    """
    try:
        _check_file(path)
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                metadata = dict(file.metadata() or {})
                loaded: Any = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        else:
            metadata = {}
            # torch warns of formats that it then refuses; the error says so in one line.
            with warnings.catch_warnings(), torch.serialization.safe_globals(_STAND_INS):
                warnings.simplefilter("ignore")
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: {_refusal(error)}") from None
    except (OSError, EOFError, SafetensorError, zipfile.BadZipFile, *REFUSALS) as error:
        raise UserError(f"{path}: cannot read weights from it: {_reason(error)}") from None
    containers: list[str] = []
    tensors = dict(_flattened(loaded, "", containers))
    if not tensors:
        raise UserError(f"{path}: contains no weights: no tensor in it has a name")
    for name, tensor in tensors.items():
        _check_tensor(path, name, tensor)
    return Contents(tensors, tuple(containers), metadata)


def _check_file(path: Path) -> None:
    """Raises UserError for what is not a regular file, or unpacks to far more than its size."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "not a regular file"
        raise UserError(f"{path}: {kind}; name a .safetensors file or a torch checkpoint")
    if path.suffix == ".safetensors" or not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        raise UserError(f"{path}: a TorchScript archive; save the state_dict() of its module")
    if unpacked > UNPACKED * found.st_size + SLACK:
        raise UserError(
            f"{path}: refused: {found.st_size / 1e6:.1f} MB that unpack to {unpacked / 1e6:,.0f} "
            "MB, but torch stores weights uncompressed; save them again with torch.save"
        )


def _check_tensor(path: Path, name: str, tensor: Tensor) -> None:
    """Raises UserError for a tensor that is no plain array of values that the file holds."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise UserError(f"{path}: {name} is sparse, quantized or without values: save it as dense")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UserError(
            f"{path}: refused: {name} has shape {tuple(tensor.shape)}, more values than the file "
            "holds"
        )


def _flattened(loaded: object, prefix: str, containers: list[str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested dictionaries with their names; notes the dictionaries."""
    if not isinstance(loaded, Mapping):
        return
    for key, value in loaded.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            containers.append(f"{prefix}{key}.")
            yield from _flattened(value, f"{prefix}{key}.", containers)


def _refusal(error: Exception) -> str:
    """Why a pickle is refused, in our own words: torch's advise to read it with code."""
    words = str(error).replace("`", " ").split()
    if "GLOBAL" in words[:-1]:
        held = words[words.index("GLOBAL") + 1].rstrip(".,:")
    elif any(word in str(error) for word in ("class", "function", "build", "callable", "reduce")):
        held = "objects of other kinds"
    else:
        return "cannot read weights from it: neither safetensors nor a torch checkpoint"
    return (
        f"refused: besides tensors it holds {held}, and reading that could run code; if you trust "
        "the file, save its weights alone where they can be loaded: "
        "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
    )


def _reason(error: Exception) -> str:
    """The reason of an error in a few words, without torch's advice on `weights_only`."""
    text = getattr(error, "strerror", None) or first_line(error)
    if "weights_only" in text:
        return "it is in an old format of torch; load it there and save its state_dict() again"
    return str(text)


def numbers(metadata: Mapping[str, str], key: str) -> Any:
    """The JSON value of a key in a file's metadata; None if there is none that can be read."""
    try:
        return json.loads(metadata.get(key, "null"))
    except ValueError:
        return None
