"""`plan_module`: uses a user's PyTorch module as a base."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from headsearch.config.input_shape import InputShape
from headsearch.errors import UserError
from headsearch.models.bases.plan import BasePlan, check_grid
from headsearch.models.bases.shapes import REFUSALS, Shape, first_line, measure
from headsearch.models.bases.trunk import all_maps, make_deterministic


def plan_module(
    module: nn.Module, image_size: int | InputShape, name: str | None = None
) -> BasePlan:
    """Plans a base from a user's module; bases that the plan builds start from its weights.

    The module takes images (B, 3, S, S), or inputs of another shape, and returns a map
    (B, D, H, W), or tokens (B, N, D) of a square map with an optional class token in front. If it
    has timm's `forward_intermediates` or `forward_features`, these are used. The module is copied,
    never changed.

    Args:
        module: the module with its initial weights.
        image_size: S, the side of the images in pixels, or the shape of the input.
        name: the name of the base; the class of the module when None.

    Raises:
        UserError: the module does not take such images, returns no usable map, or is random in
            training mode.
    """
    name = name or type(module).__name__
    parameter = next(module.parameters(), None)
    if parameter is None:
        raise UserError(f"base {name!r} has no parameters: there is nothing to pretrain")
    # A generator of its own, so that the caller's random state does not change.
    input_shape = InputShape.square(image_size) if isinstance(image_size, int) else image_size
    images = torch.rand(2, *input_shape.tensor, generator=torch.Generator().manual_seed(0)).to(
        parameter
    )
    try:
        shape = _shape_of(copy.deepcopy(module), images)
    except UserError as error:
        raise UserError(f"base {name!r}: {error}") from None
    except REFUSALS as error:
        raise UserError(
            f"base {name!r} cannot serve on inputs of shape {(1, *input_shape.tensor)}: "
            f"{first_line(error)}"
        ) from error
    on, larger = f"on images of {input_shape.width} pixels", "larger images"
    if input_shape.sequence:
        on, larger = f"on {input_shape.words}", "longer clips"
    check_grid(name, shape.stages[0].grid, on, larger)
    return BasePlan(
        name=name,
        timm_name=f"{type(module).__module__}.{type(module).__qualname__}",
        input_shape=input_shape,
        stages=shape.stages,
        own_family=None,
        params_m=shape.params_m,
        gflops=shape.gflops,
        reading=shape.reading,
        module=copy.deepcopy(module),  # a copy: the user may go on to train the original
    )


def _shape_of(trunk: nn.Module, images_BCSS: Tensor) -> Shape:
    """Measures the trunk; raises UserError if it is random after `make_deterministic`."""
    shape = measure(trunk.eval(), images_BCSS[:1])
    make_deterministic(trunk.train())
    # Two seeds must give the same map up to rounding.
    first, second = _last_map(trunk, images_BCSS, 0), _last_map(trunk, images_BCSS, 1)
    if not torch.allclose(first, second, 1e-2, 1e-3):
        raise UserError(
            "it gives different features for the same inputs in training mode; switch off what is "
            "random in it: random numbers of the base would depend on which heads train with it"
        )
    return shape


def _last_map(trunk: nn.Module, images_BCSS: Tensor, seed: int) -> Tensor:
    """The last map, computed with this seed in torch's global generators."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        return all_maps(trunk, images_BCSS)[0][-1]
