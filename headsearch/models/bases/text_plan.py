"""`plan_text_base`: a transformers model as a base, from its configuration or from a folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from headsearch.config.base_names import (
    TRANSFORMERS,
    domain_of_base,
    folder_of,
    shape_for,
    takes_waveforms,
)
from headsearch.config.domains import TEXT
from headsearch.config.input_shape import InputShape
from headsearch.config.text_settings import VOCABULARY
from headsearch.device import free_memory
from headsearch.errors import UserError
from headsearch.models.bases.arguments import base_arguments, parsed_arguments
from headsearch.models.bases.plan import BasePlan, plan_base
from headsearch.models.bases.shapes import REFUSALS, Stage, first_line
from headsearch.models.bases.text_base import (
    TextBase,
    build_text_base,
    is_causal,
    layers_of,
    reads_padding,
)
from headsearch.models.bases.transformers_models import (
    Described,
    check_entries,
    check_type,
    config_of,
    outputs_of,
    read_folder,
    transformers,
)
from headsearch.models.bases.waveform_plan import plan_waveform_base

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
OF_DATA = dict.fromkeys(("vocab_size", "pad_token_id"), "follows the texts: use --vocab-size")
"""Entries of a configuration that the tokenizer decides, with what to do instead."""


def is_text_base(name: str) -> bool:
    """Whether a name is that of a text base."""
    return domain_of_base(name) == TEXT


def plan_named(
    name: str,
    image_size: int | InputShape,
    *,
    patch_size: int | None = None,
    base_args: str | None = None,
) -> BasePlan:
    """Plans a base of images, clips or texts without data.

    Args:
        name: of any base. One of texts is fitted to `shape_without_data`.
        image_size, patch_size: as those of `plan_base`; not used for a base of texts.
        base_args: its arguments, as KEY=VALUE,…

    Raises:
        UserError: no such base, or it does not take the arguments.
    """
    if takes_waveforms(name):
        shape = image_size if isinstance(image_size, InputShape) else shape_for(name, image_size)
        assert isinstance(shape, InputShape)
        return plan_waveform_base(name, shape, parsed_arguments(base_args))
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
        known = None if folder is None else config_of(folder).get("vocab_size")
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
    library, folder = transformers(name), folder_of(name)
    if folder is not None:
        if arguments:
            raise UserError(f"{name}: the folder's config.json decides its sizes: give no others")
        model = read_folder(library, folder)
    else:
        kind = check_type(library, name.removeprefix(TRANSFORMERS), NAMES, "text base")
        check_entries(library, kind, name, arguments or {}, OF_DATA)
        of_data = {"vocab_size": shape.vocabulary, "pad_token_id": 0}
        model = Described(kind, {**(arguments or {}), **of_data})
        _check_fits(name, model)
    kind, entries, weights = model.kind, model.entries, model.weights
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


def _check_fits(name: str, model: Described) -> None:
    """Raises UserError if the parameters of a model do not fit into the memory that is free.

    The default sizes of many types are those of models with billions of parameters.
    """
    available = free_memory(torch.device("cpu"))
    try:
        with torch.device("meta"):
            trunk = build_text_base(model.kind, model.entries).trunk
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
    with FlopCounterMode(display=False) as counter, outputs_of(layers_of(base.trunk)) as outputs:
        base(ids)
    stages = tuple(Stage(output.shape[2], (1, tokens)) for output in reversed(outputs))
    return stages, counter.get_total_flops() / 1e9
