"""The parameter `norm`: replaces the norms in a head's blocks by layer norm, batch norm or none.

Shape suffixes: B batch, D width, H rows, W columns; X any further axes.
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
    "normalisation inside the blocks: the family's own, over the width of a token, over the "
    "batch, or none",
    "norm-{}",
    choices=("own", "layer", "batch", "none"),
)
SOME_NORM = replace(NORM, choices=("own", "layer", "batch"))
"""The same parameter for families that need a norm (`Family.multiplies`)."""


class _BatchNormLast(nn.BatchNorm1d):
    """Batch norm over the last axis of (B, X, D)."""

    def forward(self, tokens_BXD: Tensor) -> Tensor:
        return super().forward(tokens_BXD.flatten(0, -2)).view_as(tokens_BXD)


def renormalised(head: nn.Module, norm: str) -> nn.Module:
    """Replaces every norm in a head's blocks, in place; "own" leaves the head unchanged.

    The new norm keeps the activation of the old one, and has a bias only if the old one had. With
    "batch" the output for an image depends on the rest of the batch in training and on running
    means in evaluation, as in the published networks with batch norm. With "none" the weights are
    initialised again by their fan-in, since no norm restores the scale of a signal.

    Args:
        head: a head with layer norms or group norms.
        norm: one of the choices of `NORM`.
    """
    if norm == "own":
        return head
    for module in list(head.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.LayerNorm | nn.GroupNorm):
                setattr(module, name, _replacement(child, norm))
    return normal_fan_in(head) if norm == "none" else head


def _replacement(norm: nn.LayerNorm | nn.GroupNorm, kind: str) -> nn.Module:
    """A norm of this kind, or the identity, for the same channels and with the same activation."""
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
