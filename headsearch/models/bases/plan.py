"""A base fitted to an image size: what to build, and its shape and cost.

Shapes: B images, C = 3 channels, S image side; D width of a map, H × W its grid.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import timm
import torch
from torch import nn

from headsearch.errors import UserError
from headsearch.models.bases.arguments import check_arguments
from headsearch.models.bases.base import WHOLE, Base, Reading
from headsearch.models.bases.names import own_family, timm_name_of
from headsearch.models.bases.shapes import REFUSALS, Shape, Stage, first_line, measure
from headsearch.models.bases.trunk import patch_embedding
from headsearch.models.bases.weights import Weights, fitted

SMALLEST_GRID = 4
"""A map of fewer tokens a side leaves windows, kernels and pooling nothing to differ in."""

GOOD_GRID = 7
"""The map looked for where it is affordable: 8×8 on small images, 7×7 at stride 32 of 224."""

AFFORDABLE_GFLOPS = 0.5
"""What one image may cost a base on a CPU for the good grid to be chosen over the smallest."""


@dataclass(frozen=True)
class BasePlan:
    """A base fitted to an image size: what to build, and its shape and cost."""

    name: str
    timm_name: str
    """timm's name of the model; the class of a module of one's own."""
    image_size: int
    stages: tuple[Stage, ...]
    """The maps that the base offers: the last one, the one before it, …"""
    own_family: str | None
    """The head family that is built like the base, None where there is none."""
    params_m: float
    gflops: float
    """GFLOPs (2 × multiply-adds) of one forward of one image."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of `timm.create_model` beyond the name."""
    reading: Reading = WHOLE
    """Which of the model's last steps a base uses."""
    weights: Weights | None = None
    """What the base starts from; drawn when None."""
    module: nn.Module | None = field(default=None, repr=False, compare=False)
    """A module of one's own, which a base is a copy of."""

    def build(self, drop_path: float = 0.0) -> Base:
        """The base itself, on torch's default device.

        Its weights are those of `weights` or of `module`, else drawn from torch's seed.

        Args:
            drop_path: the rate at the last block, from which it falls linearly to 0 at the first.

        Raises:
            UserError: this base drops no paths.
        """
        if self.module is not None:
            if drop_path:
                raise self._has_no_paths()
            return Base(copy.deepcopy(self.module), self.reading)
        rate = {"drop_path_rate": drop_path} if drop_path else {}
        try:
            trunk = timm.create_model(self.timm_name, num_classes=0, **self.arguments, **rate)
        except TypeError:
            if not rate:
                raise
            raise self._has_no_paths() from None
        if self.weights is not None:
            trunk.load_state_dict(self.weights.state)
        return Base(trunk, self.reading, drop_path=drop_path > 0)

    def _has_no_paths(self) -> UserError:
        return UserError(f"base {self.name!r} has no paths to drop, as --recipe asks")

    @property
    def dim(self) -> int:
        """The width of the last map."""
        return self.stages[0].dim

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the last map."""
        return self.stages[0].grid

    def __str__(self) -> str:
        height, width = self.grid
        chosen = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in
                           self.arguments.items() if key != "img_size")  # fmt: skip
        return (
            f"{self.name} ({self.timm_name}) on {self.image_size}×{self.image_size} images"
            f"{', ' + chosen if chosen else ''}: a {height}×{width} map of width {self.dim}, "
            f"{self.params_m:.1f} M parameters, {self.gflops:.2f} GFLOPs an image"
        )


def plan_base(
    name: str,
    image_size: int,
    *,
    patch_size: int | None = None,
    accelerator: bool = False,
    arguments: Mapping[str, Any] | None = None,
    weights: Weights | None = None,
) -> BasePlan:
    """Fits the base `name` to square images of `image_size` pixels.

    The model is changed as little as possible: its own patch and stride where they leave a map of
    7×7 tokens or more, else the largest patch (or output stride) that gives such a map where that
    is affordable, and one of at least 4×4 where it is not. Shapes and GFLOPs are found on the meta
    device, without computing anything.

    Args:
        name: an alias of `ALIASES` or a timm model name.
        image_size: side of the images in pixels.
        patch_size: the patch side in pixels, for models that have one; chosen when None.
        accelerator: whether the run has one; then the larger map is always affordable.
        arguments: further arguments of timm's model, as `base_arguments` reads them.
        weights: what the base starts from; drawn when None.

    Raises:
        UserError: no such model, it does not take the arguments, it gives no usable map at this
            image size, or the weights are not its own.
    """
    plan = _chosen_plan(name, image_size, patch_size, accelerator, dict(arguments or {}))
    if weights is None:
        return plan
    with torch.device("meta"):
        trunk = timm.create_model(plan.timm_name, num_classes=0, **plan.arguments)
    return replace(plan, weights=fitted(weights, trunk, plan.timm_name))


def check_grid(name: str, grid: tuple[int, int], at: str, mend: str) -> None:
    """Raises UserError for a map that is too coarse for heads to differ on."""
    if min(grid) < SMALLEST_GRID:
        raise UserError(
            f"base {name!r} gives a map of {grid[0]}×{grid[1]} tokens {at}; "
            f"heads need {SMALLEST_GRID}×{SMALLEST_GRID} or more: use {mend}"
        )


def _chosen_plan(
    name: str,
    image_size: int,
    patch_size: int | None,
    accelerator: bool,
    given: dict[str, Any],
) -> BasePlan:
    timm_name = timm_name_of(name)
    if given:
        check_arguments(timm_name, given)
    coarse: BasePlan | None = None
    too_coarse: BasePlan | None = None
    refusals: list[str] = []
    for choice in _argument_choices(timm_name, image_size, patch_size, given):
        try:  # coarsest map first
            plan = _plan_with(name, timm_name, image_size, {**given, **choice})
        except REFUSALS as error:
            refusals.append(first_line(error))
            continue
        if min(plan.grid) < SMALLEST_GRID:
            too_coarse = plan
        elif min(plan.grid) >= GOOD_GRID or patch_size is not None:
            affordable = accelerator or plan.gflops <= AFFORDABLE_GFLOPS
            return plan if affordable or coarse is None else coarse
        elif coarse is None:
            coarse = plan
    if coarse is not None:
        return coarse
    at = f"at --image-size {image_size}{f' and --patch-size {patch_size}' if patch_size else ''}"
    if too_coarse is not None:
        mend = f"larger images{' or smaller patches' if patch_size else ''}"
        check_grid(name, too_coarse.grid, at, mend)
    if patch_size and any("patch_size'" in reason for reason in refusals):
        raise UserError(
            f"base {name!r} takes no --patch-size at --image-size {image_size}; leave it out"
        )
    raise UserError(
        f"base {name!r} gives no map of tokens {at}: {_telling(refusals)}"
        f"{_mend(timm_name, image_size, given)}"
    )


def _argument_choices(
    timm_name: str, image_size: int, patch_size: int | None, given: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Ways to build the model, from the least changed, which has the coarsest map, to the most."""
    if patch_size is not None:
        yield {"img_size": image_size, "patch_size": patch_size}
        yield {"patch_size": patch_size}
        return
    own = _own_patch(timm_name, given)
    for patch in sorted({own, 16, 14, 8, 4, 2, 1}, reverse=True) if own else []:
        if patch <= own and image_size % patch == 0:
            yield {"img_size": image_size, "patch_size": patch}
    yield {"img_size": image_size}
    yield {}
    if "output_stride" not in given:
        for stride in (16, 8):
            yield {"output_stride": stride}


def _own_patch(timm_name: str, given: dict[str, Any]) -> int:
    """The patch side that the model has by itself, 0 if it is not made of patches."""
    with torch.device("meta"):
        model = timm.create_model(timm_name, num_classes=0, **given)
    patch: Any = getattr(patch_embedding(model), "patch_size", 0)
    return int(patch[0] if isinstance(patch, tuple) else patch)


def _plan_with(name: str, timm_name: str, image_size: int, arguments: dict[str, Any]) -> BasePlan:
    """The model built with these arguments. Raises one of REFUSALS where it does not take them."""
    shape = _shape_of(timm_name, image_size, arguments)
    return BasePlan(
        name=name,
        timm_name=timm_name,
        image_size=image_size,
        stages=shape.stages,
        own_family=own_family(timm_name),
        params_m=shape.params_m,
        gflops=shape.gflops,
        arguments=arguments,
        reading=shape.reading,
    )


def _shape_of(timm_name: str, image_size: int, arguments: dict[str, Any]) -> Shape:
    with torch.device("meta"):
        trunk = timm.create_model(timm_name, num_classes=0, **arguments).eval()
    return measure(trunk, torch.empty(1, 3, image_size, image_size, device="meta"))


def _telling(refusals: list[str]) -> str:
    """The reason that says most: a refused size before a refused argument."""
    sizes = [reason for reason in refusals if "unexpected keyword argument" not in reason]
    return (sizes or refusals)[0]


def _mend(timm_name: str, image_size: int, given: dict[str, Any]) -> str:
    """What to do about a model that was built for one image size."""
    size = timm.get_pretrained_cfg(timm_name).input_size[-1]
    if size != image_size:
        try:
            _shape_of(timm_name, size, given)
        except REFUSALS:
            return "; use another base"
        return f"; it was made for images of {size} pixels: use --image-size {size} or another base"
    return "; use another base"
