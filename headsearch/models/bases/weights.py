"""First weights of a base: read from a file, or timm's pretrained ones, and fitted to a trunk."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from headsearch.errors import UserError
from headsearch.models.bases.names import timm_name_of
from headsearch.models.bases.shapes import REFUSALS, first_line

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher", "student")
"""Under which key a training checkpoint keeps the model's weights: the first that is there."""

PREFIXES = ("module.", "_orig_mod.", "model.", "base.", "encoder.", "backbone.", "trunk.")
"""What wrappers put before the model's own names."""

_FILTERS = ("checkpoint_filter_fn", "_filter_fn", "_filter_torchvision_pretrained",
            "pretrained_filter_fn")  # fmt: skip
"""What timm's modules call the function that brings a checkpoint to a model's names and sizes."""

NAMED = 3
"""How many parameters a message names before it only counts them."""


@dataclass(frozen=True)
class Weights:
    """Weights by name, and where they are from."""

    origin: str
    sha256: str
    """Of the file; of names and values where there was none."""
    state: Mapping[str, Tensor] = field(repr=False, compare=False)
    left_out: tuple[str, ...] = ()
    """Names that the trunk they were fitted to has no use for."""

    def __str__(self) -> str:
        rest = f"; {_listed(self.left_out)} in it not used" if self.left_out else ""
        return f"first weights from {self.origin} (sha256 {self.sha256[:12]}…){rest}"


def read_weights(path: Path) -> Weights:
    """The weights in a `.safetensors` file or a torch checkpoint, of which no code is run.

    Raises:
        UserError: the file cannot be read, holds code, or holds no weights.
    """
    try:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        loaded = _load(path)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused: it holds more than weights, which could run code "
            f"({_culprit(error)}); save the model's state_dict alone"
        ) from None
    except (OSError, EOFError, SafetensorError, *REFUSALS) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"{path}: no weights can be read from it: {reason}") from None
    state = _unwrapped(loaded)
    if not state:
        raise UserError(f"{path}: it holds no weights (looked for tensors under {WRAPPERS})")
    return Weights(str(path), digest.hexdigest(), state)


def pretrained_weights(name: str) -> Weights:
    """timm's own pretrained weights of a base, downloaded where they are not yet.

    Raises:
        UserError: there are none, or they cannot be had.
    """
    timm_name = timm_name_of(name)
    try:
        model = timm.create_model(timm_name, pretrained=True, num_classes=0)
    except Exception as error:  # the hub's client raises whatever its HTTP library does
        raise UserError(
            f"--pretrained: timm's weights of {timm_name} cannot be had: {first_line(error)}; "
            "use --base-weights with a file"
        ) from None
    state = model.state_dict()
    digest = hashlib.sha256()
    for key, tensor in state.items():
        digest.update(key.encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    tag = model.pretrained_cfg.get("tag") or "default"
    return Weights(f"timm's {timm_name.split('.')[0]}.{tag}", digest.hexdigest(), state)


def fitted(weights: Weights, trunk: nn.Module, timm_name: str) -> Weights:
    """The weights under a trunk's own names and in its shapes.

    timm's own functions bring position and patch embeddings to another image or patch size. The
    classifier is left out. What else the trunk has no name for is left out too, and told, as long
    as every weight that the trunk has is there.

    Args:
        weights: as they were read.
        trunk: timm's model without a classifier; the meta device will do.
        timm_name: its name.

    Raises:
        UserError: a weight of the trunk is missing, or has another shape.
    """
    wanted = trunk.state_dict()
    state = _without_prefixes(weights.state, wanted)
    adapt = _filter_of(timm_name)
    if adapt is not None:
        try:
            state = dict(adapt(state, trunk))
        except REFUSALS as error:
            raise UserError(
                f"{weights.origin}: not weights of {timm_name}: {first_line(error)}"
            ) from None
    for key, tensor in wanted.items():  # older checkpoints do without it; it decides nothing
        if key.endswith("num_batches_tracked"):
            state.setdefault(key, torch.zeros(tensor.shape, dtype=tensor.dtype))
    unexpected = [key for key in state if key not in wanted and not _is_classifier(key, trunk)]
    missing = [key for key in wanted if key not in state]
    misshaped = [
        f"{key} {tuple(state[key].shape)} for {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in state and state[key].shape != tensor.shape
    ]
    if missing or misshaped:
        kinds = {"missing": missing, "of another shape": misshaped, "unexpected": unexpected}
        told = "; ".join(f"{_listed(keys)} {kind}" for kind, keys in kinds.items() if keys)
        raise UserError(f"{weights.origin}: not weights of {timm_name} as it is built here: {told}")
    used = {key: state[key].detach().cpu() for key in wanted}
    return Weights(weights.origin, weights.sha256, used, tuple(unexpected))


def _load(path: Path) -> object:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    # timm's and DINO's checkpoints hold their settings as a Namespace, which is data alone.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _culprit(error: Exception) -> str:
    """What torch would not unpickle: the word after GLOBAL in its message."""
    words = str(error).replace("`", " ").split()
    return words[words.index("GLOBAL") + 1] if "GLOBAL" in words[:-1] else first_line(error)


def _unwrapped(loaded: object) -> dict[str, Tensor]:
    while isinstance(loaded, Mapping):
        inner = next(
            (loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), Mapping)), None
        )
        if inner is None:
            return {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}
        loaded = inner
    return {}


def _without_prefixes(state: Mapping[str, Tensor], wanted: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights without what wrappers put before their names, nor what stands beside them."""
    found = dict(state)
    stripped = True
    while stripped:
        stripped = False
        for prefix in PREFIXES:
            inside = {k[len(prefix) :]: v for k, v in found.items() if k.startswith(prefix)}
            if inside and not any(key.startswith(prefix) for key in wanted):
                found, stripped = inside, True
    return found


def _filter_of(timm_name: str) -> Callable[[Any, nn.Module], Mapping[str, Tensor]] | None:
    module = sys.modules[timm.model_entrypoint(timm_name.split(".")[0]).__module__]
    return next((getattr(module, name) for name in _FILTERS if hasattr(module, name)), None)


def _is_classifier(key: str, trunk: Any) -> bool:
    layers = trunk.pretrained_cfg.get("classifier") or ()
    return key.rpartition(".")[0] in ((layers,) if isinstance(layers, str) else layers)


def _listed(names: tuple[str, ...] | list[str]) -> str:
    more = ", …" if len(names) > NAMED else ""
    return f"{len(names)} ({', '.join(names[:NAMED])}{more})"
