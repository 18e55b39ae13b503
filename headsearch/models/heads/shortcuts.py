"""The parameters that remove shortcuts around token mixing, which enlarges the discrepancy.

With a shortcut, the output of a head contains the base's tokens unchanged. Without it the output
consists of mixed tokens only. This is one of the ways in which HSSL (Li et al. 2025, arXiv
2310.05108) enlarges the discrepancy between head and base.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from headsearch.models.heads.family import Parameter

FIRST_SHORTCUT = Parameter(
    "bool",
    True,
    "whether the first block has a shortcut around its token mixing; without, the base's tokens "
    "reach the head's output only through token mixing",
    "noshortcut",
)
"""Whether the first block keeps the shortcut around its token mixing.

A block with one residual, x + f(x), becomes f(x). A block with two residuals mixes tokens, then
channels: y = x + mix(x), then y + mlp(y). It loses only the first: y = mix(x), then y + mlp(y).
In both cases every path from the base's tokens to the head's output passes token mixing, which is
the subject of the ablation in HSSL (arXiv 2310.05108). The second residual carries mixed tokens
only, and keeping it keeps the block trainable.
"""
ALL_SHORTCUTS = Parameter(
    "bool",
    True,
    "whether the blocks have shortcuts around their token mixing; without, no block has one",
    "noshortcut-any",
)
SHORTCUTS = {"first_shortcut": FIRST_SHORTCUT, "shortcuts": ALL_SHORTCUTS}
"""The parameters of every family whose blocks have a shortcut around token mixing."""


class NoShortcut(nn.Module):
    """Replaces the module in the shortcut of a block; adds zero whatever its input is.

    It returns a scalar zero of the same dtype, so that the addition needs no memory for a map and
    changes neither the type nor the values of the sum.
    """

    def forward(self, shortcut: Tensor) -> Tensor:
        return torch.zeros((), dtype=shortcut.dtype, device=shortcut.device)


def replacing(name: str) -> Callable[[Any], nn.Module]:
    """Returns a function that removes the shortcut of a block by replacing its module `name`."""

    def without(block: Any) -> nn.Module:
        setattr(block, name, NoShortcut())
        assert isinstance(block, nn.Module)
        return block

    return without


class WithoutShortcut(nn.Module):
    """A block of `norm1`, token mixing, `norm2` and `mlp`, without the shortcut around the mixing.

    Args:
        block: timm's block.
        mixing: the name of its token mixing module or method.
    """

    def __init__(self, block: nn.Module, mixing: str) -> None:
        super().__init__()
        self.block: Any = block
        self.mixing = mixing

    def forward(self, tokens: Tensor) -> Tensor:
        mixed: Tensor = getattr(self.block, self.mixing)(self.block.norm1(tokens))
        channels: Tensor = self.block.mlp(self.block.norm2(mixed))
        return mixed + channels


def opened(
    blocks: Sequence[nn.Module],
    without: Callable[[Any], nn.Module],
    *,
    first_shortcut: bool,
    shortcuts: bool,
) -> list[nn.Module]:
    """Removes the shortcut around token mixing from the first block, from all blocks, or from none.

    Args:
        blocks: blocks with their shortcuts.
        without: function that returns a block without this shortcut and with the same weights.
        first_shortcut, shortcuts: the values of the two parameters.
    """
    return [
        block if shortcuts and (first_shortcut or index > 0) else without(block)
        for index, block in enumerate(blocks)
    ]
