"""Initial weights of a base: reads checkpoints or timm's weights and fits them to the trunk."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import timm
import timm.data
import torch
from torch import Tensor, nn

from headsearch.config import normalization
from headsearch.config.normalization import Normalization
from headsearch.errors import UserError
from headsearch.models.bases.checkpoint import numbers, read_checkpoint
from headsearch.models.bases.copies import find_copy
from headsearch.models.bases.names import ALIAS_ARGUMENTS, timm_name_of
from headsearch.models.bases.shapes import REFUSALS, first_line

NORMALIZATION = "normalization"
"""The key of a safetensors file's metadata with the normalisation that its weights expect."""

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
    normalization: Normalization | None = None
    """The normalisation of images that they were trained with, if their source says so."""
    prefix: str | None = None
    """The prefix of the names that are used; None to find it (see `copies.find_copy`)."""
    others: tuple[str, ...] = ()
    """The prefixes of other copies of the base's weights in the source."""
    containers: tuple[str, ...] = field(default=(), repr=False, compare=False)
    """The nested dictionaries of the source, as prefixes of names."""

    def __str__(self) -> str:
        taken = f", those under {self.prefix.rstrip('.')!r} in it" if self.prefix else ""
        if self.others:
            names = ", ".join(repr(p.rstrip(".")) if p else "bare names" for p in self.others)
            taken += f" (--weights-prefix takes others: {names})"
        rest = f"; {_listed(self.left_out)} in it not used" if self.left_out else ""
        return f"first weights from {self.origin} (sha256 {self.sha256[:12]}…){taken}{rest}"


def read_weights(path: Path, prefix: str | None = None) -> Weights:
    """Reads the weights in a `.safetensors` file or a torch checkpoint, without running code in it.

    Args:
        path: the file.
        prefix: the prefix of the base's names in it; None to find it.

    Raises:
        UserError: the file cannot be read, could run code, or contains no weights.
    """
    contents = read_checkpoint(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return Weights(
        str(path),
        digest.hexdigest(),
        contents.tensors,
        normalization=normalization.of_json(numbers(contents.metadata, NORMALIZATION)),
        prefix=prefix,
        containers=contents.containers,
    )


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
    expected = timm.data.resolve_model_data_config(model)
    return Weights(
        f"timm's {timm_name.split('.')[0]}.{tag}",
        digest.hexdigest(),
        state,
        normalization=normalization.of(expected["mean"], expected["std"]),
        prefix="",
    )


def normalization_of(timm_name: str) -> Normalization | None:
    """The normalisation that timm's own weights of a model expect; None if timm has none."""
    known = timm.get_pretrained_cfg(timm_name)
    return normalization.of(known.mean, known.std) if known is not None else None


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
    adapt = _filter_of(timm_name)

    def convert(copy: dict[str, Tensor]) -> Mapping[str, Tensor]:
        _check_values(weights.origin, copy, wanted)
        try:
            return dict(adapt(copy, trunk)) if adapt is not None else copy
        except REFUSALS as error:
            raise UserError(
                f"{weights.origin}: not weights of {timm_name}: {first_line(error)}"
            ) from None

    found = find_copy(weights.state, weights.containers, wanted, convert, weights.prefix)
    state = dict(found.state)
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
    _check_values(weights.origin, used, wanted)
    return replace(
        weights,
        state=used,
        left_out=tuple(unexpected),
        prefix=found.prefix,
        others=found.others,
        containers=(),
    )


def _check_values(origin: str, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raises UserError for weights that are whole numbers, or not finite."""
    for name, own in wanted.items():
        given = state.get(name)
        if given is None or not own.is_floating_point():
            continue
        if not given.is_floating_point():
            kind = str(given.dtype).removeprefix("torch.")
            raise UserError(
                f"{origin}: {name} is {kind}, but weights must be floating point numbers; save "
                "them dequantized"
            )
        if not given.float().isfinite().all():
            raise UserError(f"{origin}: {name} holds values that are not finite (NaN or infinite)")


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
