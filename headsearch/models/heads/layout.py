"""Wrappers that run blocks on tokens (B, N, D) or channels-last maps within a (B, D, H, W) head.

Shape suffixes: B batch, N tokens (row-major: n = row * W + column), D width, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn


class TokenBlocks(nn.Module):
    """Runs blocks that take tokens (B, N, D) on a map (B, D, H, W)."""

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, map_BDHW: Tensor) -> Tensor:
        tokens_BND: Tensor = self.blocks(map_BDHW.flatten(2).transpose(1, 2))
        return tokens_BND.transpose(1, 2).reshape(map_BDHW.shape)


class ChannelsLastBlocks(nn.Module):
    """Runs blocks that take channels-last maps (B, H, W, D) on a map (B, D, H, W)."""

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, map_BDHW: Tensor) -> Tensor:
        map_BHWD: Tensor = self.blocks(map_BDHW.permute(0, 2, 3, 1))
        return map_BHWD.permute(0, 3, 1, 2)
