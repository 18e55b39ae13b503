"""Which base a run trains: from its settings, or rebuilt from what an earlier run recorded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from headsearch.config import normalization
from headsearch.config.base_names import is_of_transformers
from headsearch.config.domains import IMAGE
from headsearch.config.input_shape import InputShape
from headsearch.config.settings import RunConfig, resolve
from headsearch.data.domains import domain_of
from headsearch.errors import UserError
from headsearch.models.bases import (
    BasePlan,
    Weights,
    base_arguments,
    parsed_arguments,
    plan_base,
    plan_module,
    plan_text_base,
    plan_waveform_base,
    pretrained_weights,
    read_weights,
    timm_name_of,
)
from headsearch.runs.run import Run
from headsearch.training.inputs import NO_INPUTS, InMemoryInputs
from headsearch.training.multicrop import arguments_for_local_crops

BASE_SETTINGS = (
    "base", "base_args", "base_weights", "weights_prefix", "pretrained", "image_size", "patch_size",
    "domain", "clip_seconds", "sample_rate", "hop_ms", "mels", "text_tokens", "vocab_size",
)  # fmt: skip
"""The settings that determine the base."""


def named_base(config: RunConfig) -> tuple[dict[str, Any], Weights | None]:
    """The arguments and the first weights of the base that the settings name.

    Call it before anything slow, so that a mistake in these settings shows at once.

    Raises:
        UserError: an unknown base or argument, or weights that cannot be read.
    """
    if is_of_transformers(config.base):
        return parsed_arguments(config.base_args), None
    timm_name_of(config.base)
    arguments = base_arguments(config.base, config.base_args)
    if config.pretrained and config.base_weights is not None:
        raise UserError("--pretrained and --base-weights exclude each other; give one of them")
    if config.base_weights is not None:
        return arguments, read_weights(config.base_weights, config.weights_prefix)
    if config.weights_prefix is not None:
        raise UserError("--weights-prefix needs --base-weights")
    return arguments, pretrained_weights(config.base) if config.pretrained else None


def with_normalization(
    config: RunConfig, base: nn.Module | BasePlan | None, weights: Weights | None
) -> RunConfig:
    """The settings with the normalisation of the first weights in place of `auto`.

    Weights that do not say how images were normalised, and random ones, get ImageNet's.

    Args:
        config: the settings.
        base: the base, if a caller passed one.
        weights: the first weights that the settings name, if any.

    Raises:
        UserError: the setting is no normalisation.
    """
    if isinstance(base, BasePlan):
        weights = base.weights
    of_data = domain_of(config).name != IMAGE
    if of_data and weights is None and config.normalization == normalization.AUTO:
        return config  # the data decide: see `Domain.normalization`
    chosen = normalization.parse(config.normalization)
    if config.normalization == normalization.AUTO and weights is not None:
        chosen = weights.normalization or normalization.IMAGENET
    return config.model_copy(update={"normalization": str(chosen)})


def plan_for(
    config: RunConfig,
    inputs: InMemoryInputs,
    shape: InputShape,
    arguments: dict[str, Any],
    weights: Weights | None,
    *,
    accelerator: bool,
) -> BasePlan:
    """The base of these settings or inputs, fitted to the inputs.

    Args:
        config: the settings.
        inputs: objects that a Python caller passes; a base among them is used.
        shape: that of one input.
        arguments: the arguments of timm's model.
        weights: the first weights, if they are not random.
        accelerator: whether to fit the base for an accelerator or for a CPU.
    """
    if isinstance(inputs.base, BasePlan):
        return inputs.base
    if inputs.base is not None:
        return plan_module(inputs.base, shape)
    if shape.vocabulary:
        return plan_text_base(config.base, shape, arguments)
    if shape.rate:
        return plan_waveform_base(config.base, shape, arguments)
    views = domain_of(config).views(config, shape)
    arguments = arguments_for_local_crops(config.base, arguments, views)
    return plan_base(
        config.base,
        shape,
        patch_size=config.patch_size,
        accelerator=accelerator,
        arguments=arguments,
        weights=weights,
    )


def plan_of_run(
    run: Run, weights_file: Path | None = None, *, shape_only: bool = False
) -> BasePlan:
    """The base that a search trained, fitted as it was on the search's device.

    Args:
        run: the search.
        weights_file: where the file with its first weights lies now, if it has moved.
        shape_only: leave out its first weights, which may no longer be there.

    Raises:
        UserError: the base was given in Python, or the settings no longer name a base.
    """
    config = resolve({}, run.path / "config.yaml")
    if shape_only:
        no_weights = {"base_weights": None, "weights_prefix": None, "pretrained": False}
        config = config.model_copy(update=no_weights)
    elif weights_file is not None:
        config = config.model_copy(update={"base_weights": weights_file})
    if "base" in run.config.get("given", []):
        raise UserError(
            f"{run.path}: its base was given in Python ({config.base}); give it again there"
        )
    shape = shape_of_run(run)
    accelerator = not config.device.startswith("cpu")
    arguments, weights = named_base(config)
    return plan_for(config, NO_INPUTS, shape, arguments, weights, accelerator=accelerator)


def shape_of_run(run: Run) -> InputShape:
    """The shape of the inputs of a run, as its config.yaml records it.

    Raises:
        UserError: it does not.
    """
    config = resolve({}, run.path / "config.yaml")
    shape = domain_of(config).shape_of(config)
    if shape is None:
        raise UserError(
            f"{run.path / 'config.yaml'} is not the config of a run: no image_size or clip_seconds"
        )
    return shape


def plan_as_recorded(config: RunConfig, recorded: Mapping[str, Any]) -> BasePlan | None:
    """The base of these settings, fitted as a config.yaml records it (`base_arguments`).

    A run that began on an accelerator may be resumed on a CPU, and the other way round, so both
    ways to fit the base are tried. Returns None if neither gives what was recorded.
    """
    shape = domain_of(config).shape_of(config)
    assert shape is not None
    arguments, weights = named_base(config)
    for accelerator in (False, True):
        plan = plan_for(config, NO_INPUTS, shape, arguments, weights, accelerator=accelerator)
        if as_written({"timm_name": plan.timm_name, **plan.arguments}) == as_written(recorded):
            return plan
    return None


def as_written(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a base as YAML gives them back: tuples are lists there."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in arguments.items()
    }


def has_weights_of(run: Run, file: Path) -> bool:
    """Whether a file holds the first weights of a search, wherever that found them."""
    recorded = run.config.get("first_weights")
    if not isinstance(recorded, Mapping) or not file.is_file():
        return False
    return hashlib.sha256(file.read_bytes()).hexdigest() == recorded.get("sha256")


def repeats_base(run: Run, config: RunConfig) -> bool:
    """Whether these settings name the base that the search trained."""
    before = resolve({}, run.path / "config.yaml")
    names = [name for name in BASE_SETTINGS if name != "base_weights"]
    if config.base_weights != before.base_weights and (
        config.base_weights is None or not has_weights_of(run, config.base_weights)
    ):
        return False
    same = (getattr(config, name) == getattr(before, name) for name in names)
    return "base" not in run.config.get("given", []) and all(same)
