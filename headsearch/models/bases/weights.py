"""Initial weights of a base: reads checkpoints or timm's weights and fits them to the trunk."""

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
from headsearch.models.bases.names import ALIAS_ARGUMENTS, timm_name_of
from headsearch.models.bases.shapes import REFUSALS, first_line

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher", "student")
"""Keys under which training checkpoints store the state dict; the first one present is used."""

PREFIXES = ("module.", "_orig_mod.", "model.", "base.", "encoder.", "backbone.", "trunk.")
"""Prefixes that wrappers (DDP, torch.compile, SSL frameworks) add to parameter names."""

_FILTERS = ("checkpoint_filter_fn", "_filter_fn", "_filter_torchvision_pretrained",
            "pretrained_filter_fn")  # fmt: skip
"""Names in timm's modules of the function that converts a checkpoint to a model's names and sizes.

Each model's entry point passes it to timm's builder, so it can only be found by its name.
"""

NAMED = 3
"""How many parameters a message names; it gives the number of the rest."""


@dataclass(frozen=True)
class Weights:
    """A state dict and where it is from."""

    origin: str
    """The file, or timm's name of the pretrained weights."""
    sha256: str
    """Digest of the file, or of the names and values if the weights are not from a file."""
    state: Mapping[str, Tensor] = field(repr=False, compare=False)
    left_out: tuple[str, ...] = ()
    """Names in the source that the trunk has no parameter for."""

    def __str__(self) -> str:
        rest = f"; {_listed(self.left_out)} in it not used" if self.left_out else ""
        return f"first weights from {self.origin} (sha256 {self.sha256[:12]}…){rest}"


def read_weights(path: Path) -> Weights:
    """Reads the weights in a `.safetensors` file or a torch checkpoint, without running code in it.

    Raises:
        UserError: the file cannot be read, contains code, or contains no weights.
    """
    try:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        loaded = _load(path)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused: it contains objects that could run code ({_culprit(error)}); "
            "save only the model's state_dict"
        ) from None
    except (OSError, EOFError, SafetensorError, *REFUSALS) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"{path}: cannot read weights from it: {reason}") from None
    state = _unwrapped(loaded)
    if not state:
        raise UserError(f"{path}: contains no weights (looked for tensors under {WRAPPERS})")
    return Weights(str(path), digest.hexdigest(), state)


def pretrained_weights(name: str) -> Weights:
    """timm's pretrained weights of a base, downloaded unless they are in the cache already.

    Raises:
        UserError: there are none, or the download fails.
    """
    if name in ALIAS_ARGUMENTS:
        raise UserError(f"--pretrained: there are no pretrained weights of {name}")
    timm_name = timm_name_of(name)
    try:
        model = timm.create_model(timm_name, pretrained=True, num_classes=0)
    except Exception as error:  # the hub's client raises whatever its HTTP library does
        raise UserError(
            f"--pretrained: cannot get timm's weights of {timm_name}: {first_line(error)}; "
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
    """Converts weights to the names and shapes of a trunk.

    timm's own functions resize position and patch embeddings to another image or patch size. The
    classifier is dropped. Other names that the trunk does not have are dropped too and listed in
    `left_out`; every weight that the trunk has must be present.

    Args:
        weights: the weights as read from the source.
        trunk: timm's model without a classifier; it may be on the meta device.
        timm_name: the name of the model.

    Raises:
        UserError: a weight of the trunk is missing or has another shape.
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
    # Older checkpoints lack this counter of batch norms, which does not change any output.
    for key, tensor in wanted.items():
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
        details = "; ".join(f"{_listed(keys)} {kind}" for kind, keys in kinds.items() if keys)
        raise UserError(
            f"{weights.origin}: not weights of {timm_name} as it is built here: {details}"
        )
    used = {key: state[key].detach().cpu() for key in wanted}
    return Weights(weights.origin, weights.sha256, used, tuple(unexpected))


def _load(path: Path) -> object:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    # Checkpoints of timm and DINO contain their settings as a Namespace, which only holds data.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _culprit(error: Exception) -> str:
    """The name that torch refused to unpickle: the word after GLOBAL in its message."""
    words = str(error).replace("`", " ").split()
    return words[words.index("GLOBAL") + 1] if "GLOBAL" in words[:-1] else first_line(error)


def _unwrapped(loaded: object) -> dict[str, Tensor]:
    """The state dict inside a checkpoint, which may be nested under several of `WRAPPERS`."""
    while isinstance(loaded, Mapping):
        inner = next(
            (loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), Mapping)), None
        )
        if inner is None:
            return {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}
        loaded = inner
    return {}


def _without_prefixes(state: Mapping[str, Tensor], wanted: Mapping[str, Any]) -> dict[str, Tensor]:
    """Removes the prefixes of wrappers from the names, and weights outside of the wrapped model.

    A prefix is kept if names of the trunk itself start with it.
    """
    weights = dict(state)
    stripped = True
    while stripped:
        stripped = False
        for prefix in PREFIXES:
            inside = {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
            if inside and not any(key.startswith(prefix) for key in wanted):
                weights, stripped = inside, True
    return weights


def _filter_of(timm_name: str) -> Callable[[Any, nn.Module], Mapping[str, Tensor]] | None:
    """timm's function that converts checkpoints for this model; None where it has none."""
    module = sys.modules[timm.model_entrypoint(timm_name.split(".")[0]).__module__]
    return next((getattr(module, name) for name in _FILTERS if hasattr(module, name)), None)


def _is_classifier(key: str, trunk: Any) -> bool:
    """Whether a weight belongs to the classifier, by timm's configuration of the model."""
    layers = trunk.pretrained_cfg.get("classifier") or ()
    return key.rpartition(".")[0] in ((layers,) if isinstance(layers, str) else layers)


def _listed(names: tuple[str, ...] | list[str]) -> str:
    """The number of names, and the first few of them."""
    more = ", …" if len(names) > NAMED else ""
    return f"{len(names)} ({', '.join(names[:NAMED])}{more})"
