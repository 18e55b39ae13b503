"""Measures a trunk: shapes of its maps, parameters and GFLOPs, by a forward without gradients."""

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
"""Exceptions that models raise for an argument or image size they do not support.

timm's models check their arguments in many different ways, or not at all.
"""


class Stage(NamedTuple):
    """The shape of one map of a base, to which heads can be attached: width and (H, W)."""

    dim: int
    grid: tuple[int, int]


class Shape(NamedTuple):
    """The shapes of a trunk's maps, which of its outputs are used, and its cost."""

    stages: tuple[Stage, ...]
    """The shapes of the maps, the last map first."""
    reading: Reading
    """Which of the trunk's outputs match the last map."""
    params_m: float
    """Millions of parameters."""
    gflops: float
    """GFLOPs (2 × multiply-adds) of one forward of one image."""


def measure(trunk: nn.Module, image_1CSS: Tensor) -> Shape:
    """Measures a trunk in eval mode on one image; trunk and image may be on the meta device.

    The trunk cannot be used afterwards: its random parts and its gradients are switched off.

    Raises:
        REFUSALS: the trunk does not take the image, or returns no map.
    """
    trunk.requires_grad_(False)  # FlopCounterMode fails on views of weights that need gradients
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
    """The first line of an error's message; the name of its class if the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _summarises(trunk: Any, final: Any, map_BDHW: Tensor) -> bool:
    """Whether the trunk's own pooling turns its final features into (B, D)."""
    if not callable(getattr(trunk, "forward_head", None)):
        return False
    try:
        with torch.no_grad():
            pooled = trunk.forward_head(final, pre_logits=True)
    except REFUSALS:  # some take no `pre_logits`, some pool features wider than the map
        return False
    return isinstance(pooled, Tensor) and pooled.shape == map_BDHW.shape[:2]
