"""`plan_base`: fits a timm model to its input by choosing its patch size or output stride.

D is the width of a map, H × W its grid.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import timm
import torch
from torch import nn

from headsearch.config.base_names import is_of_transformers
from headsearch.config.input_shape import InputShape
from headsearch.errors import UserError
from headsearch.models.bases.arguments import check_arguments
from headsearch.models.bases.base import WHOLE, Base, Reading
from headsearch.models.bases.names import ALIAS_ARGUMENTS, own_family, timm_name_of
from headsearch.models.bases.shapes import REFUSALS, Shape, Stage, first_line, measure
from headsearch.models.bases.text_base import build_text_base
from headsearch.models.bases.trunk import patch_embedding
from headsearch.models.bases.waveform_base import build_waveform_base
from headsearch.models.bases.weights import Weights, fitted
from headsearch.text import with_article

SMALLEST_GRID, SHORTEST = 4, 8
"""Least side of a map in tokens, and least length of a map of one row (a sequence): on smaller
ones, windows, kernels and pooling cannot differ."""

GOOD_GRID, GOOD_LENGTH = 7, 24
"""The preferred side of a map, where affordable: 8×8 on small images, 7×7 at stride 32 of 224; and
the preferred length of a sequence, a token for each 40 ms of a second."""

AFFORDABLE_GFLOPS = 0.5
"""GFLOPs per image up to which a base on a CPU gets the preferred grid rather than the smallest."""


@dataclass(frozen=True)
class BasePlan:
    """How to build a base for an input shape, with the shapes of its maps and its cost."""

    name: str
    timm_name: str
    """timm's name of the model, the qualified name of the class of a user's module, or the model
    type of a base of transformers."""
    input_shape: InputShape
    stages: tuple[Stage, ...]
    """The shapes of the maps that heads can be attached to, the last map first."""
    own_family: str | None
    """The head family with the same blocks as the base; None where there is none."""
    params_m: float
    """Millions of parameters."""
    gflops: float
    """GFLOPs (2 × multiply-adds) of one forward of one image."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of `timm.create_model` beyond the name; of a base of transformers the
    entries of its configuration."""
    reading: Reading = WHOLE
    """Which of the model's outputs the base uses."""
    weights: Weights | None = None
    """The initial weights; None for timm's random initialisation."""
    causal: bool = False
    """Whether an output depends on inputs up to its own place only. Its heads are causal, too."""
    module: nn.Module | None = field(default=None, repr=False, compare=False)
    """The user's module, if the base is one; each base is a copy of it."""

    def build(self, drop_path: float = 0.0) -> Base:
        """Builds the base on torch's default device.

        The initial weights are those of `weights` or `module`, else drawn with torch's global seed.

        Args:
            drop_path: the drop path rate of the last block; it falls linearly to 0 at the first.

        Raises:
            UserError: a rate is given, but this model has no drop path.
        """
        if self.module is not None:
            if drop_path:
                raise self._no_drop_path()
            return Base(copy.deepcopy(self.module), self.reading)
        if self.of_transformers:
            if drop_path:
                raise self._no_drop_path()
            build = build_text_base if self.input_shape.vocabulary else build_waveform_base
            state = None if self.weights is None else self.weights.state
            return build(self.timm_name, self.arguments, state)
        rate = {"drop_path_rate": drop_path} if drop_path else {}
        try:
            trunk = timm.create_model(self.timm_name, num_classes=0, **self.arguments, **rate)
        except TypeError:  # unexpected keyword argument, which without a rate is our own mistake
            if not rate:
                raise
            raise self._no_drop_path() from None
        if self.weights is not None:
            trunk.load_state_dict(self.weights.state)
        return Base(trunk, self.reading, drop_path=drop_path > 0)

    def example(self, count: int) -> torch.Tensor:
        """Inputs of the base on torch's default device, to trace it with; their values are open."""
        if self.input_shape.vocabulary:
            return torch.zeros(count, self.input_shape.width, dtype=torch.int64)
        return torch.empty(count, *self.input_shape.floats)

    @property
    def of_transformers(self) -> bool:
        """Whether it is a model of transformers, which takes token ids or waveforms."""
        return bool(self.input_shape.vocabulary or self.input_shape.rate)

    def without_weights(self) -> BasePlan:
        """The same base with random first weights, which can be built on the meta device."""
        return replace(self, weights=None)

    def _no_drop_path(self) -> UserError:
        return UserError(
            f"base {self.name!r} has no paths to drop (stochastic depth), as --recipe asks: use "
            "another --recipe or --base"
        )

    @property
    def dim(self) -> int:
        """The width D of the last map."""
        return self.stages[0].dim

    @property
    def grid(self) -> tuple[int, int]:
        """The rows and columns (H, W) of the last map."""
        return self.stages[0].grid

    @property
    def image_size(self) -> int:
        """The side of square images in pixels; the number of time steps of a sequence."""
        return self.input_shape.width

    def __str__(self) -> str:
        height, width = self.grid
        shown = {} if self.of_transformers and self.weights else self.arguments
        chosen = ", ".join(
            f"{key.replace('_', ' ')} {value}"
            for key, value in shown.items()
            if key not in ("img_size", "in_chans", "vocab_size", "pad_token_id")
        )
        return (
            f"{self.name} ({self.timm_name}) on {self.input_shape.words}"
            f"{', ' + chosen if chosen else ''}: {with_article(f'{height}×{width} map')} of "
            f"width {self.dim}, "
            f"{self.params_m:.1f} M parameters, {self.gflops:.2f} GFLOPs "
            f"{with_article(self.input_shape.sample)}"
        )


def plan_base(
    name: str,
    image_size: int | InputShape,
    *,
    patch_size: int | None = None,
    accelerator: bool = False,
    arguments: Mapping[str, Any] | None = None,
    weights: Weights | None = None,
) -> BasePlan:
    """Plans the base `name` for square images of `image_size` pixels, or for another input.

    The model is changed as little as possible. It keeps its own patch size and stride if they give
    a map of at least 7×7 tokens (24 in a sequence). Else the largest patch size (or output stride)
    that gives such a map is used, if that is affordable, and one that gives at least 4×4 (8) if it
    is not. Shapes and GFLOPs are found on the meta device, without any computation.

    Args:
        name: an alias of `ALIASES` or a timm model name.
        image_size: the side of square colour images in pixels, or the shape of the input.
        patch_size: the patch side in pixels, for models that have one; chosen as above when None.
            Of a sequence the length of a patch in time steps.
        accelerator: whether the run has an accelerator; the larger map is then always affordable.
        arguments: further arguments of timm's model, as returned by `base_arguments`.
        weights: the initial weights; timm's random initialisation when None.

    Raises:
        UserError: timm has no such model, the model does not take the arguments, it gives no usable
            map at this image size, or the weights do not fit it.
    """
    if is_of_transformers(name):
        raise UserError(f"{name} is a base of texts or sounds, and this fits bases to images alone")
    arguments = {**ALIAS_ARGUMENTS.get(name, {}), **(arguments or {})}
    shape = InputShape.square(image_size) if isinstance(image_size, int) else image_size
    if shape.channels != 3:
        arguments["in_chans"] = shape.channels
    plan = _chosen_plan(name, shape, patch_size, accelerator, arguments)
    if weights is None:
        return plan
    with torch.device("meta"):
        trunk = timm.create_model(plan.timm_name, num_classes=0, **plan.arguments)
    return replace(plan, weights=fitted(weights, trunk, plan.timm_name))


def check_grid(name: str, grid: tuple[int, int], at: str, advice: str) -> None:
    """Raises UserError for a map with fewer than `SMALLEST_GRID` tokens a side, or `SHORTEST`.

    Args:
        name: the name of the base.
        grid: the (H, W) of its last map.
        at: the setting that gives this map, for the message.
        advice: what the user can change, for the message.
    """
    if not _reaches(grid, SMALLEST_GRID, SHORTEST):
        least = f"1×{SHORTEST}" if grid[0] == 1 < grid[1] else f"{SMALLEST_GRID}×{SMALLEST_GRID}"
        raise UserError(
            f"base {name!r} gives a map of {grid[0]}×{grid[1]} tokens {at}; "
            f"heads need {least} or more: use {advice}"
        )


def _reaches(grid: tuple[int, int], side: int, length: int) -> bool:
    """Whether a map has this side, or this length if it has one row."""
    return grid[1] >= length if grid[0] == 1 else min(grid) >= side


def _chosen_plan(
    name: str,
    shape: InputShape,
    patch_size: int | None,
    accelerator: bool,
    given: dict[str, Any],
) -> BasePlan:
    """Tries the choices of arguments, coarsest map first, and returns the first that fits.

    A plan with a good grid wins if it is affordable; else the coarsest usable one does.
    """
    timm_name = timm_name_of(name)
    if given:
        check_arguments(timm_name, given)
    coarse: BasePlan | None = None
    too_coarse: BasePlan | None = None
    refusals: list[str] = []
    for choice in _argument_choices(timm_name, shape, patch_size, given):
        try:
            plan = _plan_with(name, timm_name, shape, {**given, **choice})
        except REFUSALS as error:
            refusals.append(first_line(error))
            continue
        if not _reaches(plan.grid, SMALLEST_GRID, SHORTEST):
            too_coarse = plan
        elif _reaches(plan.grid, GOOD_GRID, GOOD_LENGTH) or patch_size is not None:
            affordable = accelerator or plan.gflops <= AFFORDABLE_GFLOPS
            return plan if affordable or coarse is None else coarse
        elif coarse is None:
            coarse = plan
    if coarse is not None:
        return coarse
    at = f"at {shape.setting}{f' and --patch-size {patch_size}' if patch_size else ''}"
    if too_coarse is not None:
        larger = "longer clips" if shape.sequence else "larger images"
        advice = f"{larger}{' or smaller patches' if patch_size else ''}"
        check_grid(name, too_coarse.grid, at, advice)
    if patch_size and any("patch_size'" in reason for reason in refusals):
        raise UserError(f"base {name!r} takes no --patch-size at {shape.setting}; leave it out")
    raise UserError(
        f"base {name!r} gives no map of tokens {at}: {_most_specific(refusals)}"
        f"{_advice(timm_name, shape, given)}"
    )


def _argument_choices(
    timm_name: str, shape: InputShape, patch_size: int | None, given: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Arguments to build the model with, least changed (and so with the coarsest map) first.

    Models of patches take another image and patch size. Models of stages take neither, or only an
    image size; their map is refined by a smaller output stride. A patch of a sequence takes the
    whole height; models that take no such patch get square ones, and give a map of several rows.
    """
    size: Any = (shape.height, shape.width) if shape.sequence else shape.width

    def patches(side: int) -> Any:
        return (shape.height, side) if shape.sequence else side

    if patch_size is not None:
        yield {"img_size": size, "patch_size": patches(patch_size)}
        yield {"patch_size": patches(patch_size)}
        return
    own = _own_patch(timm_name, given)
    for patch in sorted({own, 16, 14, 8, 4, 2, 1}, reverse=True) if own else []:
        if patch <= own and shape.width % patch == 0:
            yield {"img_size": size, "patch_size": patches(patch)}
    yield {"img_size": size}
    yield {}
    if "output_stride" not in given:
        for stride in (16, 8):
            yield {"output_stride": stride}


def _own_patch(timm_name: str, given: dict[str, Any]) -> int:
    """The default patch side of the model in pixels; 0 if it has no patch embedding."""
    with torch.device("meta"):
        model = timm.create_model(timm_name, num_classes=0, **given)
    patch: Any = getattr(patch_embedding(model), "patch_size", 0)
    return int(patch[0] if isinstance(patch, tuple) else patch)


def _plan_with(
    name: str, timm_name: str, input_shape: InputShape, arguments: dict[str, Any]
) -> BasePlan:
    """The plan with these arguments. Raises one of REFUSALS if the model does not take them."""
    shape = _shape_of(timm_name, input_shape, arguments)
    return BasePlan(
        name=name,
        timm_name=timm_name,
        input_shape=input_shape,
        stages=shape.stages,
        own_family=own_family(timm_name),
        params_m=shape.params_m,
        gflops=shape.gflops,
        arguments=arguments,
        reading=shape.reading,
    )


def _shape_of(timm_name: str, shape: InputShape, arguments: dict[str, Any]) -> Shape:
    with torch.device("meta"):
        trunk = timm.create_model(timm_name, num_classes=0, **arguments).eval()
    return measure(trunk, torch.empty(1, *shape.tensor, device="meta"))


def _most_specific(refusals: list[str]) -> str:
    """The most informative error: one about sizes rather than about an unknown argument.

    Every model refuses some of the arguments that are tried, which tells the user nothing.
    """
    sizes = [reason for reason in refusals if "unexpected keyword argument" not in reason]
    return (sizes or refusals)[0]


def _advice(timm_name: str, shape: InputShape, given: dict[str, Any]) -> str:
    """What the user can do if the model only works at the image size it was made for."""
    size = timm.get_pretrained_cfg(timm_name).input_size[-1]
    if size != shape.width and not shape.sequence:
        try:
            _shape_of(timm_name, InputShape.square(size), given)
        except REFUSALS:
            return "; use another base"
        return f"; it was made for images of {size} pixels: use --image-size {size} or another base"
    return "; use another base"
