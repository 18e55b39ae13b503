"""How a head's blocks normalise: as published, or otherwise for the sake of a difference.

Shape suffixes: B batch, D width, H rows, W columns; X whatever axes there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from timm.layers import LayerNorm2d
from torch import Tensor, nn

from headsearch.models.heads.family import Parameter
from headsearch.models.heads.init import normal_fan_in

NORM = Parameter(
    "choice",
    "own",
    "normalisation inside the blocks: as the family has it, over the width of a token, over the "
    "batch, or none",
    "norm-{}",
    choices=("own", "layer", "batch", "none"),
)
SOME_NORM = replace(NORM, choices=("own", "layer", "batch"))
"""The same for families that cannot do without."""


class _BatchNormLast(nn.BatchNorm1d):
    """Batch norm whose channels are the last axis, (B, X, D)."""

    def forward(self, tokens_BXD: Tensor) -> Tensor:
        return super().forward(tokens_BXD.flatten(0, -2)).view_as(tokens_BXD)


def renormalised(head: nn.Module, norm: str) -> nn.Module:
    """The head with every norm of its blocks put in another's place; with "own", as it is.

    A norm keeps its activation if it has one, and goes on without a bias if it had none. With
    "batch" an image's output depends on the others of its batch in training, and on running means
    in evaluation, as in the networks that were published so. With "none" weights begin by their
    fan-in: no norm will bring a signal back to scale that they shrink or blow up.
    """
    if norm == "own":
        return head
    for module in list(head.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.LayerNorm | nn.GroupNorm):
                setattr(module, name, _in_place_of(child, norm))
    return normal_fan_in(head) if norm == "none" else head


def _in_place_of(norm: nn.LayerNorm | nn.GroupNorm, kind: str) -> nn.Module:
    if kind == "layer" and isinstance(norm, nn.LayerNorm):
        return norm
    of_maps = isinstance(norm, nn.GroupNorm | LayerNorm2d)  # (B, D, H, W) rather than (B, X, D)
    new: nn.Module
    if kind == "none":
        new = nn.Identity()
    else:
        kinds: dict[str, Callable[[int], nn.Module]] = {
            "layer": LayerNorm2d if of_maps else nn.LayerNorm,
            "batch": nn.BatchNorm2d if of_maps else _BatchNormLast,
        }
        new = kinds[kind](norm.weight.numel())
        if norm.bias is None:
            new.register_parameter("bias", None)
    activation = getattr(norm, "act", None)
    return new if activation is None else nn.Sequential(new, activation)
