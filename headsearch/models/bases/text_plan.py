"""`plan_text_base`: a transformers model as a base, from its configuration or from a folder."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.utils.flop_counter import FlopCounterMode

from headsearch.config.domains import TEXT_BASE
from headsearch.config.input_shape import InputShape
from headsearch.config.text_settings import VOCABULARY
from headsearch.device import free_memory
from headsearch.errors import UserError, unknown
from headsearch.models.bases.arguments import base_arguments, parsed_arguments
from headsearch.models.bases.plan import BasePlan, plan_base
from headsearch.models.bases.shapes import REFUSALS, Stage, first_line
from headsearch.models.bases.text_base import (
    TextBase,
    auto_class,
    build_text_base,
    is_causal,
    layers_of,
    outputs_of_layers,
    reads_padding,
    transformers,
)
from headsearch.models.bases.weights import Weights

NAMES: dict[str, str] = {
    "albert-xxlarge-v2": "albert",
    "bert-base-uncased": "bert",
    "distilbert-base-uncased": "distilbert",
    "gpt2": "gpt2",
    "t5-small": "t5",
}
"""Published models whose configuration is the default of their type in transformers."""
TEXT_TOKENS = 64
"""The length of texts to which a base is fitted without data."""
FLOAT32 = 4
"""Bytes of a parameter."""
OF_DATA = ("vocab_size", "pad_token_id")
"""Entries of a configuration that the tokenizer decides."""


def is_text_base(name: str) -> bool:
    """Whether a name is that of a text base."""
    return name.startswith(TEXT_BASE)


def folder_of(name: str) -> Path | None:
    """The model folder that a name means; None if it means none."""
    if not is_text_base(name):
        return None
    text = name.removeprefix(TEXT_BASE)
    folder = Path(text).expanduser()
    # Of a bare name, a run directory called `bert` is not the model.
    named = folder.name != text or (folder / "config.json").exists()
    return folder if named and folder.is_dir() else None


def plan_named(
    name: str,
    image_size: int | InputShape,
    *,
    patch_size: int | None = None,
    base_args: str | None = None,
) -> BasePlan:
    """Plans a base of images or of texts without data.

    Args:
        name: of any base. One of texts is fitted to `shape_without_data`.
        image_size, patch_size: as those of `plan_base`; not used for a base of texts.
        base_args: its arguments, as KEY=VALUE,…

    Raises:
        UserError: no such base, or it does not take the arguments.
    """
    if is_text_base(name):
        return plan_text_base(name, shape_without_data(name), parsed_arguments(base_args))
    arguments = base_arguments(name, base_args)
    return plan_base(name, image_size, patch_size=patch_size, arguments=arguments)


def shape_without_data(
    name: str, tokens: int | None = None, vocabulary: int | None = None
) -> InputShape:
    """The shape of texts for a base, where no data decide it.

    Args:
        name: of the base.
        tokens: the length of texts; 64 by default.
        vocabulary: by default the default one, or that of a model folder if it is smaller.

    Raises:
        UserError: the folder's config.json cannot be read.
    """
    if vocabulary is None:
        folder = folder_of(name)
        known = None if folder is None else _config_of(folder).get("vocab_size")
        vocabulary = min(VOCABULARY, known) if isinstance(known, int) else VOCABULARY
    return InputShape.text(tokens or TEXT_TOKENS, vocabulary)


def plan_text_base(
    name: str, shape: InputShape, arguments: Mapping[str, Any] | None = None
) -> BasePlan:
    """Plans the base that a name means for texts of a shape.

    Args:
        name: `hf:` with a model type of transformers, with a name in `NAMES`, or with a folder.
        shape: that of the texts. A model with random weights gets their vocabulary.
        arguments: entries of the configuration that differ from its defaults; none for a folder.

    Raises:
        UserError: transformers is not installed, no such type or folder, a folder without
            safetensors, an argument that the configuration does not have, a model that reads
            padding, has a decoder, or knows fewer tokens than the texts have.
    """
    library, folder, weights = transformers(name), folder_of(name), None
    if folder is not None:
        if arguments:
            raise UserError(f"{name}: the folder's config.json decides its sizes: give no others")
        kind, entries, weights = _from_folder(library, folder)
    else:
        kind, entries = _from_type(library, name.removeprefix(TEXT_BASE), arguments or {}, shape)
        _check_fits(name, kind, entries)
    with torch.random.fork_rng(devices=[]):
        base = build_text_base(kind, entries, None if weights is None else weights.state).eval()
    known = int(base.trunk.config.vocab_size)
    if known < shape.vocabulary:
        raise UserError(
            f"{name} knows {known} tokens, but the texts have {shape.vocabulary}: the tokenizer is "
            "not that of the model"
        )
    if not layers_of(base.trunk):
        raise UserError(f"{name}: no repeated blocks are found in it: use another base")
    try:
        padding_matters = reads_padding(base)
        stages, gflops = _measured(base, kind, entries, shape.width)
    except REFUSALS as error:
        raise UserError(f"{name} does not take {shape.words} alone: {first_line(error)}") from None
    if padding_matters:
        raise UserError(
            f"{name}: its output for a text depends on the padding behind it: use another base"
        )
    return BasePlan(
        name=name,
        timm_name=kind,
        input_shape=shape,
        stages=stages,
        own_family="attention" if getattr(base.trunk.config, "num_attention_heads", 0) else None,
        params_m=sum(p.numel() for p in base.trunk.parameters()) / 1e6,
        gflops=gflops,
        arguments=entries,
        weights=weights,
        causal=is_causal(base),
    )


def _check_fits(name: str, kind: str, entries: Mapping[str, Any]) -> None:
    """Raises UserError if the parameters of a model do not fit into the memory that is free.

    The default sizes of many types are those of models with billions of parameters.
    """
    available = free_memory(torch.device("cpu"))
    try:
        with torch.device("meta"):
            trunk = build_text_base(kind, entries).trunk
    except REFUSALS:  # it is built again on the CPU, which says why
        return
    count = sum(parameter.numel() for parameter in trunk.parameters())
    if available is not None and count * FLOAT32 > available:
        raise UserError(
            f"{name} has {count / 1e9:.1f} billion parameters, which take "
            f"{count * FLOAT32 / 1e9:.0f} GB, but {available / 1e9:.0f} GB are free: make it "
            "smaller with --base-args (num_hidden_layers=…,hidden_size=…)"
        )


def _measured(
    base: TextBase, kind: str, entries: Mapping[str, Any], tokens: int
) -> tuple[tuple[Stage, ...], float]:
    """The shapes of a base's maps, the last first, and the GFLOPs of a text of so many tokens.

    On the meta device all products are counted, on a CPU not those within attention. A model that
    looks at values has to be measured there.
    """
    try:
        with torch.device("meta"):
            return _stages_and_gflops(build_text_base(kind, entries).eval(), tokens)
    except REFUSALS:
        return _stages_and_gflops(base, tokens)


@torch.no_grad()
def _stages_and_gflops(base: TextBase, tokens: int) -> tuple[tuple[Stage, ...], float]:
    ids = torch.zeros(1, tokens, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, outputs_of_layers(base.trunk) as outputs:
        base(ids)
    stages = tuple(Stage(output.shape[2], (1, tokens)) for output in reversed(outputs))
    return stages, counter.get_total_flops() / 1e9


def _from_type(
    library: Any, wanted: str, arguments: Mapping[str, Any], shape: InputShape
) -> tuple[str, dict[str, Any]]:
    """The type and the configuration of a model with random weights."""
    if wanted not in NAMES and wanted not in library.CONFIG_MAPPING:
        if "/" in wanted:
            raise UserError(
                f"{TEXT_BASE}{wanted}: no such folder, and nothing is loaded from the hub: "
                f"download the model (hf download {wanted} --local-dir FOLDER) and give "
                f"{TEXT_BASE}FOLDER"
            )
        some = {*NAMES, *NAMES.values()}  # of the hundreds of types
        raise unknown("text base", TEXT_BASE + wanted, [TEXT_BASE + known for known in some])
    kind = NAMES.get(wanted, wanted)
    known = library.AutoConfig.for_model(kind).to_dict()
    for key in arguments:
        if key in OF_DATA:
            raise UserError(f"--base-args: {key} follows the texts: use --vocab-size")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=6, cutoff=0.0)  # of dozens
            raise unknown(f"argument of {TEXT_BASE}{wanted}", key, near)
    return kind, {**arguments, "vocab_size": shape.vocabulary, "pad_token_id": 0}


def _from_folder(library: Any, folder: Path) -> tuple[str, dict[str, Any], Weights]:
    """The type, the configuration and the weights of the model in a folder."""
    config = _config_of(folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(
            f"{folder}: no .safetensors in it; pickles (.bin, .pt) can run code and are not read: "
            "save the model with safetensors"
        )
    kind = str(config.get("model_type"))
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
    state = TextBase(trunk).weights()
    entries = {key: value for key, value in config.items() if key not in ("model_type", "dtype")}
    return kind, entries, Weights(str(folder), digest.hexdigest(), state)


def _config_of(folder: Path) -> dict[str, Any]:
    """The entries of a folder's config.json."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: config.json cannot be read: {error}") from None
    if not isinstance(config, dict) or config.get("auto_map"):
        raise UserError(f"{folder}: its config.json asks for code of its own, which is never run")
    return config
