"""The shapes and the cost of a trunk, found by one forward without gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from headsearch.models.bases.base import Base, Reading
from headsearch.models.bases.trunk import all_maps, tokens_like

REFUSALS = (
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AssertionError,
    RuntimeError,
    AttributeError,
)
"""How models refuse an argument or a size: in as many ways as there are models."""


class Stage(NamedTuple):
    """The shape of a map that a head can be attached to."""

    dim: int
    grid: tuple[int, int]


class Shape(NamedTuple):
    """What a trunk gives for an image, how it is read, and what it costs."""

    stages: tuple[Stage, ...]
    """The maps that it offers: the last one, the one before it, …"""
    reading: Reading
    params_m: float
    gflops: float


def measure(trunk: nn.Module, image_1CSS: Tensor) -> Shape:
    """The shape of a trunk in eval mode on one image, which may be on the meta device.

    The trunk is given up for it: it is left without randomness and without gradients.

    Raises:
        REFUSALS: the trunk does not take the image, or gives no map.
    """
    trunk.requires_grad_(False)  # torch's counter trips over views of weights that want gradients
    with torch.no_grad():
        maps, final = all_maps(trunk, image_1CSS)
    reading = Reading(
        tokens_like(trunk, final, maps[-1]) is not None, _summarises(trunk, final, maps[-1])
    )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        Base(trunk, reading).eval()(image_1CSS)
    return Shape(
        tuple(Stage(m.shape[1], (m.shape[2], m.shape[3])) for m in reversed(maps)),
        reading,
        sum(parameter.numel() for parameter in trunk.parameters()) / 1e6,
        counter.get_total_flops() / 1e9,
    )


def first_line(error: BaseException) -> str:
    """What an error says, on one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _summarises(trunk: Any, final: Any, map_BDHW: Tensor) -> bool:
    """Whether the trunk's own pooling makes (B, D) of its final features."""
    if not callable(getattr(trunk, "forward_head", None)):
        return False
    try:
        with torch.no_grad():
            pooled = trunk.forward_head(final, pre_logits=True)
    except REFUSALS:  # some know no pre_logits, some pool what is wider than the map
        return False
    return isinstance(pooled, Tensor) and pooled.shape == map_BDHW.shape[:2]
