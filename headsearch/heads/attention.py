"""Heads that attend: over the whole map (ViT) or within windows of it (Swin).

Shape suffixes: B batch, N tokens, D width, H rows, W columns.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from headsearch.heads.family import DEPTH, FIRST_SHORTCUT, MLP_RATIO, Family, Grid, Parameter
from headsearch.heads.init import truncated_normal
from headsearch.heads.layout import ChannelsLastBlocks, TokenBlocks

LAYER_NORM = partial(nn.LayerNorm, eps=1e-6)


def attention_heads(dim: int, width: int) -> int:
    """How many attention heads: each as wide as divides `dim`, and at most `width`."""
    return dim // max(w for w in range(1, min(width, dim) + 1) if dim % w == 0)


class _WithoutFirstShortcut(nn.Module):
    """A block whose attention replaces its input; see `FIRST_SHORTCUT`. (B, N, D) → (B, N, D)."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block: Any = block

    def forward(self, tokens_BND: Tensor) -> Tensor:
        mixed_BND: Tensor = self.block.attn(self.block.norm1(tokens_BND))
        channels_BND: Tensor = self.block.mlp(self.block.norm2(mixed_BND))
        return mixed_BND + channels_BND


class _WindowsWithoutFirstShortcut(nn.Module):
    """The same for windows. (B, H, W, D) → (B, H, W, D)."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block: Any = block

    def forward(self, map_BHWD: Tensor) -> Tensor:
        # timm's `_attn` is the whole of shift, windows, attention and back.
        mixed_BHWD: Tensor = self.block._attn(self.block.norm1(map_BHWD))
        channels_BHWD: Tensor = self.block.mlp(self.block.norm2(mixed_BHWD))
        return mixed_BHWD + channels_BHWD


def build_attention(
    dim: int, grid: Grid, *, depth: int, mlp_ratio: float, first_shortcut: bool
) -> nn.Module:
    """ViT blocks (Dosovitskiy et al. 2021), heads of width 64 where that divides `dim`."""
    blocks = [
        Block(
            dim,
            num_heads=attention_heads(dim, 64),
            mlp_ratio=mlp_ratio,
            qkv_bias=True,
            norm_layer=LAYER_NORM,
        )
        for _ in range(depth)
    ]
    if not first_shortcut:
        blocks[0] = _WithoutFirstShortcut(blocks[0])
    return truncated_normal(TokenBlocks(blocks))


def build_swin(
    dim: int, grid: Grid, *, depth: int, window: int, mlp_ratio: float, first_shortcut: bool
) -> nn.Module:
    """Swin blocks (Liu et al. 2021): attention within windows, every other block's are shifted.

    Heads are 32 wide where that divides `dim`. Along a side that the window covers whole there is
    nothing to shift. A side that windows do not divide is padded at its end, as in the paper.
    """
    blocks = [
        SwinTransformerBlock(
            dim,
            grid,
            num_heads=attention_heads(dim, 32),
            window_size=window,
            shift_size=window // 2 if index % 2 else 0,
            mlp_ratio=mlp_ratio,
            norm_layer=LAYER_NORM,
        )
        for index in range(depth)
    ]
    if not first_shortcut:
        blocks[0] = _WindowsWithoutFirstShortcut(blocks[0])
    return truncated_normal(ChannelsLastBlocks(blocks))


ATTENTION = Family(
    "attention",
    "every token attends to every token",
    build_attention,
    {"depth": DEPTH, "mlp_ratio": MLP_RATIO, "first_shortcut": FIRST_SHORTCUT},
)
SWIN = Family(
    "swin",
    "attention within shifted windows",
    build_swin,
    {
        "depth": DEPTH,
        "window": Parameter(
            "int",
            4,
            "side of the attention window, in tokens",
            "w{}",
            always=True,
            low=2,
            high=64,
            largest_useful=max,
        ),
        "mlp_ratio": MLP_RATIO,
        "first_shortcut": FIRST_SHORTCUT,
    },
)
