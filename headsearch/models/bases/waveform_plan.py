"""`plan_waveform_base`: a transformers model on waveforms as a base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from headsearch.config.base_names import TRANSFORMERS, WAVEFORM_TYPES, folder_of, normalizes
from headsearch.config.input_shape import InputShape
from headsearch.errors import UserError
from headsearch.models.bases.plan import SHORTEST, BasePlan
from headsearch.models.bases.shapes import REFUSALS, Stage, first_line
from headsearch.models.bases.transformers_models import (
    Described,
    check_entries,
    check_type,
    read_folder,
    transformers,
)
from headsearch.models.bases.waveform_base import (
    DO_NORMALIZE,
    MASK_TOKEN,
    WaveformBase,
    blocks_of,
    build_waveform_base,
)

NORM, LAYER_NORM = "feat_extract_norm", "layer"
"""The entry for the norm of the convolutions. The default of most types normalises over the whole
time of a clip, `layer` each token by itself."""
OFF = {
    "apply_spec_augment": "has no effect: nothing in a base is random",
    "add_adapter": "cannot be set here: a base ends in its last block",
}
"""Entries of a configuration that cannot be given, and why."""


def plan_waveform_base(
    name: str, shape: InputShape, arguments: Mapping[str, Any] | None = None
) -> BasePlan:
    """Plans the base that a name means for waveforms of a shape.

    Args:
        name: `hf:` with a type of `WAVEFORM_TYPES`, or with a folder of such a model.
        shape: that of the waveforms.
        arguments: entries of the configuration that differ from its defaults, and `DO_NORMALIZE`;
            none for a folder.

    Raises:
        UserError: transformers is not installed, no such type or folder, a folder without
            safetensors, an argument that the configuration does not have, or clips so short that
            they give no map for heads.
    """
    model = _described(name, dict(arguments or {}))
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        base = build_waveform_base(model.kind, model.entries).eval()
    _check_length(name, shape, base)
    try:
        stages, gflops = _stages_and_gflops(base, shape)
    except REFUSALS as error:
        raise UserError(f"{name} does not take {shape.words}: {first_line(error)}") from None
    return BasePlan(
        name=name,
        timm_name=model.kind,
        input_shape=shape,
        stages=stages,
        own_family="attention",
        params_m=sum(p.numel() for p in base.trunk.parameters()) / 1e6,
        gflops=gflops,
        arguments=model.entries,
        weights=model.weights,
    )


def _described(name: str, arguments: dict[str, Any]) -> Described:
    """The model that a name means, with the entries of its configuration."""
    library, folder = transformers(name), folder_of(name)
    if folder is not None:
        if arguments:
            raise UserError(f"{name}: the folder's config.json decides its sizes: give no others")
        model = read_folder(library, folder)
        if model.entries.get("add_adapter"):
            raise UserError(f"{name}: it has an adapter behind its last block: use another base")
        assert model.weights is not None
        width = library.AutoConfig.for_model(model.kind, **model.entries).hidden_size
        state = {MASK_TOKEN: torch.zeros(width), **model.weights.state}
        entries = {**model.entries, DO_NORMALIZE: normalizes(name)}
        return Described(model.kind, entries, replace(model.weights, state=state))
    types = {kind: kind for kind in WAVEFORM_TYPES}
    kind = check_type(library, name.removeprefix(TRANSFORMERS), types, "base of waveforms")
    normalize = {DO_NORMALIZE: arguments.pop(DO_NORMALIZE, True)}
    check_entries(library, kind, name, arguments, OFF)
    forced = {NORM: LAYER_NORM} if NORM in library.AutoConfig.for_model(kind).to_dict() else {}
    return Described(kind, {**forced, **arguments, **normalize})


def _check_length(name: str, shape: InputShape, base: WaveformBase) -> None:
    """Raises UserError if clips are too short for the tokens that heads need."""
    config, needed = base.trunk.config, SHORTEST
    convolutions = zip(config.conv_kernel, config.conv_stride, strict=True)
    for kernel, stride in reversed(list(convolutions)):
        needed = (needed - 1) * stride + kernel
    if shape.width < needed:
        raise UserError(
            f"clips of {shape.width} samples are shorter than the {needed} from which {name} makes "
            f"{SHORTEST} tokens, and heads need so many: use a larger --clip-seconds or "
            "--sample-rate, or smaller conv_kernel and conv_stride in --base-args"
        )


@torch.no_grad()
def _stages_and_gflops(base: WaveformBase, shape: InputShape) -> tuple[tuple[Stage, ...], float]:
    """The shapes of a base's maps, the last first, and the GFLOPs of a clip, on the meta device."""
    depth = len(blocks_of(base.trunk))
    with FlopCounterMode(display=False) as counter:
        output = base(torch.zeros(1, *shape.floats, device="meta"), feature_indices=range(depth))
    shapes = [output.maps_BDHW[index].shape for index in range(depth)]
    stages = tuple(Stage(size[1], (size[2], size[3])) for size in shapes)
    return stages, counter.get_total_flops() / 1e9
