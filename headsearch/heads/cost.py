"""What a head costs, counted without running it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from headsearch.heads.family import Grid, Value
from headsearch.heads.registry import build_head


class Cost(NamedTuple):
    """Millions of parameters, and GFLOPs (two a multiply-add) of one image's forward."""

    params_m: float
    gflops: float


def head_cost(family: str, dim: int, grid: Grid, parameters: Mapping[str, Value]) -> Cost:
    """The cost of one head, by shapes alone: nothing is allocated, no random number drawn.

    Counts what PyTorch's FLOP counter counts: matrix products and convolutions, not norms,
    activations or pooling.
    """
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        head = build_head(family, dim, grid, parameters)
        head(torch.empty(1, dim, *grid))
    params = sum(parameter.numel() for parameter in head.parameters())
    return Cost(params / 1e6, counter.get_total_flops() / 1e9)
