"""A module of one's own as a base."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from headsearch.errors import UserError
from headsearch.models.bases.plan import BasePlan, check_grid
from headsearch.models.bases.shapes import REFUSALS, Shape, first_line, measure
from headsearch.models.bases.trunk import all_maps, make_deterministic


def plan_module(module: nn.Module, image_size: int, name: str | None = None) -> BasePlan:
    """A module of one's own as a base; what the plan builds starts from the module's weights.

    The module takes images (B, 3, S, S) and gives a map (B, D, H, W), or tokens (B, N, D) of a
    square map, before which a class token may stand. One that has timm's `forward_intermediates`
    or `forward_features` is read through them. It is copied, never changed.

    Args:
        module: the module, with its first weights.
        image_size: S, side of the images in pixels.
        name: what the base is called; the module's class when None.

    Raises:
        UserError: the module does not take such images, gives no usable map, or draws at random
            when it trains.
    """
    name = name or type(module).__name__
    parameter = next(module.parameters(), None)
    if parameter is None:
        raise UserError(f"base {name!r} has no parameters: there is nothing to pretrain")
    images = torch.rand(
        2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)
    ).to(parameter)
    try:
        shape = _shape_of(copy.deepcopy(module), images)
    except UserError as error:
        raise UserError(f"base {name!r}: {error}") from None
    except REFUSALS as error:
        raise UserError(
            f"base {name!r} cannot serve on images of shape (1, 3, {image_size}, {image_size}): "
            f"{first_line(error)}"
        ) from error
    check_grid(name, shape.stages[0].grid, f"on images of {image_size} pixels", "larger images")
    return BasePlan(
        name=name,
        timm_name=f"{type(module).__module__}.{type(module).__qualname__}",
        image_size=image_size,
        stages=shape.stages,
        own_family=None,
        params_m=shape.params_m,
        gflops=shape.gflops,
        reading=shape.reading,
        module=copy.deepcopy(module),  # as it is now: every base starts from the same weights
    )


def _shape_of(trunk: nn.Module, images_BCSS: Tensor) -> Shape:
    """The shape of a trunk. Raises UserError where it is random beyond what is switched off."""
    shape = measure(trunk.eval(), images_BCSS[:1])
    make_deterministic(trunk.train())
    if not torch.allclose(_drawn(trunk, images_BCSS, 0), _drawn(trunk, images_BCSS, 1), 1e-2, 1e-3):
        raise UserError(
            "it gives other features for the same images when it trains; a base must not draw at "
            "random, lest it depend on the heads: switch that off"
        )
    return shape


def _drawn(trunk: nn.Module, images_BCSS: Tensor, seed: int) -> Tensor:
    """The last map after a seed of torch's global generators."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        return all_maps(trunk, images_BCSS)[0][-1]
