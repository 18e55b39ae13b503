"""Head families with attention: ViT (global), Swin (windows), linear attention, XCiT (channels).

Shape suffixes: B batch, N tokens, D width, H rows, W columns; A attention heads, E width of one.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import Attention, Block
from timm.models.xcit import XCABlock
from torch import Tensor, nn

from headsearch.models.heads.family import (
    CAUSAL,
    DEPTH,
    MLP_RATIO,
    Family,
    Grid,
    Parameter,
    always,
)
from headsearch.models.heads.init import truncated_normal
from headsearch.models.heads.layout import ChannelsLastBlocks, TokenBlocks
from headsearch.models.heads.sequence import along_row
from headsearch.models.heads.shortcuts import SHORTCUTS, WithoutShortcut, opened

LAYER_NORM = partial(nn.LayerNorm, eps=1e-6)


def attention_heads(dim: int, width: int) -> int:
    """The number of attention heads if each has the largest width ≤ `width` that divides `dim`."""
    return dim // max(w for w in range(1, min(width, dim) + 1) if dim % w == 0)


class CausalAttention(Attention):  # type: ignore[misc]  # timm has no types
    """Attention of each token to itself and the tokens before it.

    `attn_mask`, if there is one, is bool, (B, 1, 1, N): True for the tokens that can be attended
    to. A token that it leaves without any attends to itself.
    """

    def forward(
        self, tokens_BND: Tensor, attn_mask: Tensor | None = None, is_causal: bool = True
    ) -> Tensor:
        mixed_BND: Tensor
        if attn_mask is None:
            mixed_BND = super().forward(tokens_BND, is_causal=True)
            return mixed_BND
        itself_NN = torch.eye(tokens_BND.shape[1], dtype=torch.bool, device=tokens_BND.device)
        before_NN = torch.ones_like(itself_NN).tril()
        mixed_BND = super().forward(tokens_BND, attn_mask=attn_mask & before_NN | itself_NN)
        return mixed_BND


def vit_blocks(
    dim: int, depth: int, mlp_ratio: float, attention: type[nn.Module] = Attention
) -> list[nn.Module]:
    """ViT's blocks (B, N, D): norm and attention, then norm and an MLP, each with a shortcut."""
    return [
        Block(
            dim,
            num_heads=attention_heads(dim, 64),
            mlp_ratio=mlp_ratio,
            qkv_bias=True,
            norm_layer=LAYER_NORM,
            attn_layer=attention,
        )
        for _ in range(depth)
    ]


def build_attention(
    dim: int,
    grid: Grid,
    *,
    depth: int,
    mlp_ratio: float,
    causal: bool = False,
    **shortcuts: bool,
) -> nn.Module:
    """ViT blocks: attention between all tokens, then an MLP.

    Attention heads have width 64, or the largest width below it that divides D.

    Source: Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021,
    https://arxiv.org/abs/2010.11929.

    Shapes: blocks take and return tokens (B, N, D).
    """
    blocks = vit_blocks(dim, depth, mlp_ratio, CausalAttention if causal else Attention)
    return token_head(blocks, **shortcuts)


def token_head(blocks: list[nn.Module], **shortcuts: bool) -> nn.Module:
    """A head of `vit_blocks`, with new weights as in timm's ViT."""
    blocks = opened(blocks, partial(WithoutShortcut, mixing="attn"), **shortcuts)
    return truncated_normal(TokenBlocks(blocks))


def build_swin(
    dim: int, grid: Grid, *, depth: int, window: int, mlp_ratio: float, **shortcuts: bool
) -> nn.Module:
    """Swin blocks: attention within windows, shifted by half a window in every second block.

    Attention heads have width 32, or the largest width below it that divides D. Along a side that
    one window covers there is no shift. A side that is no multiple of the window is padded at its
    end, as in the paper.

    Source: Liu et al., *Swin Transformer: Hierarchical Vision Transformer using Shifted Windows*,
    ICCV 2021, https://arxiv.org/abs/2103.14030.

    Shapes: blocks take and return maps (B, H, W, D); attention sees windows
    (B · windows, `window`², D).
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
    # timm's `_attn` shifts, splits into windows, attends, merges and shifts back.
    blocks = opened(blocks, partial(WithoutShortcut, mixing="_attn"), **shortcuts)
    return truncated_normal(ChannelsLastBlocks(blocks))


class LinearAttention(nn.Module):
    """Linear attention (Katharopoulos et al. 2020); see `build_linear_attention` for its formula.

    The sum over keys and values is shared by all queries, so the cost grows
    with N instead of N². In the causal form each query has its own keys, those so far; it is
    computed from all N² weights.

    Args:
        dim: D, the width of the tokens.
        heads: the number of attention heads.
        causal: whether a token attends to itself and the tokens before it only.
    """

    def __init__(self, dim: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, tokens_BND: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        qkv = self.qkv(tokens_BND).unflatten(-1, (3, self.heads, -1))
        q_BANE, k_BANE, v_BANE = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q_BANE, k_BANE = F.elu(q_BANE) + 1, F.elu(k_BANE) + 1
        if attn_mask is not None:  # (B, 1, 1, N): True for the tokens that can be attended to
            k_BANE = k_BANE * attn_mask.transpose(2, 3)
        if self.causal:
            weights_BANN = (q_BANE @ k_BANE.transpose(2, 3)).tril()
            totals_BAN1 = weights_BANN.sum(-1, keepdim=True)
            if attn_mask is not None:  # before the first such token there are no keys
                totals_BAN1 = totals_BAN1.masked_fill(totals_BAN1 == 0, 1)
            values_BANE = (weights_BANN @ v_BANE) / totals_BAN1
        else:
            key_values_BAEE = k_BANE.transpose(2, 3) @ v_BANE
            key_sums_BAE1 = k_BANE.sum(2).unsqueeze(-1)
            values_BANE = (q_BANE @ key_values_BAEE) / (q_BANE @ key_sums_BAE1)
        mixed_BND: Tensor = self.proj(values_BANE.transpose(1, 2).flatten(2))
        return mixed_BND


def build_linear_attention(
    dim: int,
    grid: Grid,
    *,
    depth: int,
    mlp_ratio: float,
    causal: bool = False,
    **shortcuts: bool,
) -> nn.Module:
    """ViT blocks with linear attention: a product of feature maps replaces softmax.

    The weight of key k for query q is φ(q)·φ(k), normalised to sum 1 over the keys, with
    φ(x) = elu(x) + 1. Attention heads have width 64, or the largest width below it that divides D.

    Source: Katharopoulos et al., *Transformers are RNNs: Fast Autoregressive Transformers with
    Linear Attention*, ICML 2020, https://arxiv.org/abs/2006.16236.

    Shapes: blocks take and return tokens (B, N, D).
    """
    blocks: list[Any] = vit_blocks(dim, depth, mlp_ratio)
    for block in blocks:
        block.attn = LinearAttention(dim, attention_heads(dim, 64), causal)
    return token_head(blocks, **shortcuts)


class _XcitBlock(nn.Module):
    """timm's XCiT block for a fixed grid, with or without the shortcut around its attention.

    timm's own block takes the grid in each call and cannot leave out a shortcut.
    """

    def __init__(self, block: nn.Module, grid: Grid) -> None:
        super().__init__()
        self.block: Any = block
        self.grid = grid
        self.shortcut = True

    def forward(self, tokens_BND: Tensor) -> Tensor:
        block = self.block
        mixed_BND: Tensor = block.gamma1 * block.attn(block.norm1(tokens_BND))
        if self.shortcut:
            mixed_BND = tokens_BND + mixed_BND
        # A sequence may be longer or shorter than the one that the head was built for.
        rows, places = self.grid[0], tokens_BND.shape[1]
        local_BND = block.local_mp(block.norm3(mixed_BND), rows, places // rows)
        mixed_BND = mixed_BND + block.gamma3 * local_BND
        channels_BND: Tensor = block.gamma2 * block.mlp(block.norm2(mixed_BND))
        return mixed_BND + channels_BND


def _without_xcit_shortcut(block: _XcitBlock) -> nn.Module:
    block.shortcut = False
    return block


def build_xcit(
    dim: int, grid: Grid, *, depth: int, mlp_ratio: float, **shortcuts: bool
) -> nn.Module:
    """XCiT blocks: attention between channels, then a local 3×3 convolution and an MLP.

    Attention heads have width 64, or the largest width below it that divides D. A layer norm
    replaces the batch norm of the local part, so that the output for an image does not depend on
    the other images of the batch. timm's block always has a layer scale; its initial value is 1
    here.

    Source: El-Nouby et al., *XCiT: Cross-Covariance Image Transformers*, NeurIPS 2021,
    https://arxiv.org/abs/2106.09681.

    Shapes: blocks take and return tokens (B, N, D); each attention head of width E has E × E
    weights, whatever N is.
    """
    blocks = []
    for _ in range(depth):
        block = XCABlock(
            dim,
            num_heads=attention_heads(dim, 64),
            mlp_ratio=mlp_ratio,
            qkv_bias=True,
            norm_layer=LAYER_NORM,
            eta=1.0,
        )
        block.local_mp.bn = LayerNorm2d(dim)
        blocks.append(_XcitBlock(block, grid))
    head = TokenBlocks(opened(blocks, _without_xcit_shortcut, **shortcuts))
    return truncated_normal(along_row(head, grid))


ATTENTION = Family(
    "attention",
    "every token attends to every token",
    build_attention,
    {"depth": DEPTH, "mlp_ratio": MLP_RATIO, **SHORTCUTS, "causal": CAUSAL},
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
        **SHORTCUTS,
    },
    one_length=always,
)
LINEAR_ATTENTION = Family(
    "linearattention",
    "attention through one sum over all tokens",
    build_linear_attention,
    {"depth": DEPTH, "mlp_ratio": MLP_RATIO, **SHORTCUTS, "causal": CAUSAL},
)
XCIT = Family(
    "xcit",
    "every channel attends to every channel",
    build_xcit,
    {"depth": DEPTH, "mlp_ratio": MLP_RATIO, **SHORTCUTS},
)
