"""Shortcuts around token mixing, and heads without them.

What a head adds to its input it need not differ from. Without shortcuts its output is made of mixed
tokens alone, which is one of the ways in which HSSL (arXiv 2310.05108) enlarges the discrepancy.
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
    "whether the first block adds to its input; without, the base's tokens reach the head's output "
    "only through token mixing",
    "noshortcut",
)
"""Without its shortcut the first block puts the result of token mixing in place of its input.

In a block of one residual, x + f(x), that leaves f(x). A block of two residuals mixes tokens and
then channels, y = x + mix(x) and y + mlp(y); it loses the first alone: y = mix(x), then y + mlp(y).
Either way no path without mixing leads from the base's tokens to the head's output, which is what
the ablation of HSSL (arXiv 2310.05108) is about; the second residual carries nothing of the input
that has not been mixed, and keeping it keeps the block trainable.
"""
ALL_SHORTCUTS = Parameter(
    "bool",
    True,
    "whether blocks add to their input; without, every block puts token mixing in its place",
    "noshortcut-any",
)
SHORTCUTS = {"first_shortcut": FIRST_SHORTCUT, "shortcuts": ALL_SHORTCUTS}
"""The two knobs of every family whose blocks have a shortcut around token mixing."""


class NoShortcut(nn.Module):
    """Takes the place of a block's shortcut: whatever comes in, nothing is added.

    A scalar zero, so that the sum neither costs a map nor changes its type or any of its values.
    """

    def forward(self, shortcut: Tensor) -> Tensor:
        return torch.zeros((), dtype=shortcut.dtype, device=shortcut.device)


def replacing(name: str) -> Callable[[Any], nn.Module]:
    """For blocks whose shortcut is a module of this name: how to take it out of one."""

    def without(block: Any) -> nn.Module:
        setattr(block, name, NoShortcut())
        assert isinstance(block, nn.Module)
        return block

    return without


class WithoutShortcut(nn.Module):
    """A block of `norm1`, token mixing, `norm2` and `mlp` whose mixing replaces its input.

    Args:
        block: timm's.
        mixing: what it calls its token mixing.
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
    """The blocks, the first or all of them without their shortcut around token mixing.

    Args:
        blocks: with their shortcuts.
        without: the block that lacks exactly that of a given one, with the same weights.
        first_shortcut, shortcuts: the values of the two knobs.
    """
    return [
        block if shortcuts and (first_shortcut or index > 0) else without(block)
        for index, block in enumerate(blocks)
    ]
