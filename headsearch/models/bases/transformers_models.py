"""Models of transformers as bases: from a model type with random weights, or from a folder.

Nothing is loaded from the hub, no code of a folder is run, no pickle is read.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from headsearch.config.base_names import TRANSFORMERS, check_folder
from headsearch.errors import UserError, unknown
from headsearch.models.bases.shapes import REFUSALS, first_line
from headsearch.models.bases.weights import Weights

ENCODERS = ("t5", "mt5", "umt5")
"""Models with an encoder and a decoder of which the encoder alone can be the base."""


@dataclass(frozen=True)
class Described:
    """A model of transformers that has not been built.

    Attributes:
        kind: its model type.
        entries: of its configuration, as far as they differ from the defaults of the type.
        weights: its first weights; None for random ones.
    """

    kind: str
    entries: dict[str, Any]
    weights: Weights | None = None


def auto_class(kind: str) -> str:
    """The class of transformers that builds and loads models of this type."""
    return "AutoModelForTextEncoding" if kind in ENCODERS else "AutoModel"


def transformers(name: str) -> Any:
    """The package transformers. Raises UserError if it is not installed."""
    try:
        import transformers
    except ImportError:
        raise UserError(f"{name} needs transformers: pip install 'headsearch[text]'") from None
    # It tells of kernels and special tokens that are not used here, and of each file it reads.
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def check_type(library: Any, wanted: str, some: Mapping[str, str], what: str) -> str:
    """The model type that a name means.

    Args:
        library: the package transformers.
        wanted: a type, or a name in `some`.
        some: model types by other names; these are offered where `wanted` is unknown.
        what: what is called so, for messages.

    Raises:
        UserError: there is no such type.
    """
    if wanted not in some and wanted not in library.CONFIG_MAPPING:
        check_folder(TRANSFORMERS + wanted)
        names = {*some, *some.values()}  # of the hundreds of types
        raise unknown(what, TRANSFORMERS + wanted, [TRANSFORMERS + known for known in names])
    return some.get(wanted, wanted)


def check_entries(
    library: Any, kind: str, name: str, arguments: Mapping[str, Any], fixed: Mapping[str, str]
) -> None:
    """Raises UserError for an entry that the configuration of a type does not have.

    Args:
        library: the package transformers.
        kind: the model type.
        name: the base, for messages.
        arguments: the entries.
        fixed: entries that cannot be given, with the reason and what to do.
    """
    known = library.AutoConfig.for_model(kind).to_dict()
    for key in arguments:
        if key in fixed:
            raise UserError(f"--base-args: {key} {fixed[key]}")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=6, cutoff=0.0)  # of dozens
            raise unknown(f"argument of {name}", key, near)


def config_of(folder: Path) -> dict[str, Any]:
    """The entries of a folder's config.json.

    Raises:
        UserError: it cannot be read, or asks for code of its own.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: config.json cannot be read: {error}") from None
    if not isinstance(config, dict) or config.get("auto_map"):
        raise UserError(f"{folder}: its config.json asks for code of its own, which is never run")
    return config


def read_folder(library: Any, folder: Path) -> Described:
    """The model in a folder, with its weights.

    Args:
        library: the package transformers.
        folder: the folder.

    Raises:
        UserError: it lacks files or weights, or asks for code of its own.
    """
    config = config_of(folder)
    kind = str(config.get("model_type"))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(
            f"{folder}: no .safetensors in it; pickles (.bin, .pt) can run code and are not read: "
            "save the model with safetensors"
        )
    try:
        trunk, report = getattr(library, auto_class(kind)).from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, trust_remote_code=False,
            output_loading_info=True, dtype=torch.float32,
        )  # fmt: skip
    except (OSError, SafetensorError, *REFUSALS) as error:
        raise UserError(f"{folder} cannot be read as a model: {first_line(error)}") from None
    missing = [key for key in report["missing_keys"] if not key.startswith("pooler.")]
    if missing:
        raise UserError(f"{folder}: its weights lack {sorted(missing)[0]} and others")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    if hasattr(trunk, "pooler"):
        trunk.pooler = None  # no base has one
    state = {name: tensor.detach() for name, tensor in trunk.state_dict().items()}
    entries = {key: value for key, value in config.items() if key not in ("model_type", "dtype")}
    weights = Weights(str(folder), digest.hexdigest(), state)
    return Described(kind, entries, weights)


def build_model(library: Any, kind: str, entries: Mapping[str, Any]) -> Any:
    """A model without a task head, with random weights, on torch's default device.

    Raises:
        UserError: it cannot be built with these entries, or has a decoder besides its encoder.
    """
    from huggingface_hub.errors import StrictDataclassError  # comes with transformers

    try:
        config = library.AutoConfig.for_model(kind, **entries)
        if getattr(config, "is_encoder_decoder", False) and kind not in ENCODERS:
            raise ValueError(
                "it has an encoder and a decoder; of such models only the encoders of "
                f"{', '.join(ENCODERS)} can be bases"
            )
        return getattr(library, auto_class(kind)).from_config(config, trust_remote_code=False)
    except (StrictDataclassError, *REFUSALS) as error:
        why = error.__cause__ if isinstance(error, StrictDataclassError) else None
        said = first_line(error if why is None else why)
        raise UserError(f"{TRANSFORMERS}{kind} cannot be built: {said}") from None


@contextmanager
def outputs_of(layers: Iterable[nn.Module], last: int | None = None) -> Iterator[deque[Tensor]]:
    """Within this context the outputs (B, L, D) of layers are kept, in the order of their calls.

    The hidden states that transformers returns are not these: the last of some models have had a
    norm.

    Args:
        layers: the modules whose calls are the layers of a model.
        last: keeps so many outputs, the last ones; all by default.
    """
    outputs: deque[Tensor] = deque(maxlen=last)

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(layer.register_forward_hook(keep).remove)
        yield outputs


def maps_of(outputs: deque[Tensor], feature_indices: Iterable[int]) -> dict[int, Tensor]:
    """Outputs as maps (B, D, 1, L) by feature index, counted from the last."""
    return {index: outputs[-1 - index].transpose(1, 2).unsqueeze(2) for index in feature_indices}
