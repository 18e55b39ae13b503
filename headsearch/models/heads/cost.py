"""Parameters and GFLOPs of a head, counted on the meta device without running it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from headsearch.errors import UserError
from headsearch.models.heads.family import Family, Grid, Value
from headsearch.models.heads.registry import find_family


class Cost(NamedTuple):
    """Millions of parameters, and GFLOPs (2 × multiply-adds) of one forward of one image."""

    params_m: float
    gflops: float


def head_cost(family: str | Family, dim: int, grid: Grid, parameters: Mapping[str, Value]) -> Cost:
    """The cost of one head, computed from shapes without allocating memory or drawing numbers.

    PyTorch's FLOP counter counts matrix products and convolutions, but not norms, activations,
    pooling or Fourier transforms.

    Args:
        family: the name of one of `FAMILIES`, or any other family itself.
        dim, grid: the width and the (H, W) of the map that the head is attached to.
        parameters: as for `build_head`.

    Raises:
        UserError: the head does not return a map of the same shape.
    """
    family = find_family(family) if isinstance(family, str) else family
    with torch.device("meta"), torch.no_grad():
        # Built outside of the counter, which would go through every number drawn for a weight.
        head = family.make(dim, grid, parameters)
        with FlopCounterMode(display=False) as counter:
            output = head(torch.empty(1, dim, *grid))
    if getattr(output, "shape", None) != (1, dim, *grid):
        shown = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise UserError(
            f"{family.name} makes {shown} of a map {(1, dim, *grid)}, not the same shape"
        )
    params = sum(parameter.numel() for parameter in head.parameters())
    return Cost(params / 1e6, counter.get_total_flops() / 1e9)
