"""Head families that mix tokens by fixed learned weights: MLP-Mixer, ResMLP, gMLP.

There is one weight for each pair of positions, so a head fits one size of map only.

Shape suffixes: B batch, N tokens, D width.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models.mlp_mixer import MixerBlock, ResBlock, SpatialGatingBlock
from torch import Tensor, nn

from headsearch.models.heads.family import DEPTH, MLP_RATIO, Family, Grid, Parameter, always
from headsearch.models.heads.init import xavier_uniform
from headsearch.models.heads.layout import TokenBlocks
from headsearch.models.heads.shortcuts import SHORTCUTS, opened

LAYER_NORM = partial(nn.LayerNorm, eps=1e-6)


class _MixerWithoutShortcut(nn.Module):
    """timm's Mixer block without the shortcut around its token MLP."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block: Any = block

    def forward(self, tokens_BND: Tensor) -> Tensor:
        block = self.block
        mixed_BDN: Tensor = block.mlp_tokens(block.norm1(tokens_BND).transpose(1, 2))
        mixed_BND = mixed_BDN.transpose(1, 2)
        channels_BND: Tensor = block.mlp_channels(block.norm2(mixed_BND))
        return mixed_BND + channels_BND


class _ResMlpWithoutShortcut(nn.Module):
    """timm's ResMLP block without the shortcut around its token layer."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block: Any = block

    def forward(self, tokens_BND: Tensor) -> Tensor:
        block = self.block
        mixed_BDN: Tensor = block.linear_tokens(block.norm1(tokens_BND).transpose(1, 2))
        mixed_BND: Tensor = block.ls1 * mixed_BDN.transpose(1, 2)
        channels_BND: Tensor = block.ls2 * block.mlp_channels(block.norm2(mixed_BND))
        return mixed_BND + channels_BND


def build_mixer(
    dim: int,
    grid: Grid,
    *,
    depth: int,
    mlp_ratio: float,
    token_ratio: float,
    **shortcuts: bool,
) -> nn.Module:
    """MLP-Mixer blocks: an MLP over tokens, then an MLP over channels.

    Source: Tolstikhin et al., *MLP-Mixer: An all-MLP Architecture for Vision*, NeurIPS 2021,
    https://arxiv.org/abs/2105.01601.

    Shapes: blocks take and return tokens (B, N, D); the MLP over tokens has weights for one N.
    """
    blocks = [
        MixerBlock(dim, grid[0] * grid[1], mlp_ratio=(token_ratio, mlp_ratio)) for _ in range(depth)
    ]
    return xavier_uniform(TokenBlocks(opened(blocks, _MixerWithoutShortcut, **shortcuts)))


def build_resmlp(
    dim: int, grid: Grid, *, depth: int, mlp_ratio: float, **shortcuts: bool
) -> nn.Module:
    """ResMLP blocks: one linear layer over tokens, then an MLP; affine maps in place of norms.

    timm's block always has a layer scale. Its initial value is 1 here instead of 1e-4, with which
    a shallow head would stay close to the identity throughout a short run.

    Source: Touvron et al., *ResMLP: Feedforward networks for image classification with
    data-efficient training*, https://arxiv.org/abs/2105.03404.

    Shapes: blocks take and return tokens (B, N, D); the layer over tokens is N × N.
    """
    blocks = [
        ResBlock(dim, grid[0] * grid[1], mlp_ratio=mlp_ratio, init_values=1.0) for _ in range(depth)
    ]
    return xavier_uniform(TokenBlocks(opened(blocks, _ResMlpWithoutShortcut, **shortcuts)))


def build_gmlp(
    dim: int, grid: Grid, *, depth: int, mlp_ratio: float, **shortcuts: bool
) -> nn.Module:
    """gMLP blocks: half of the channels, mixed over tokens, gate the other half.

    As published, the gate is initialised near 1, with almost no mixing.

    Source: Liu et al., *Pay Attention to MLPs*, NeurIPS 2021, https://arxiv.org/abs/2105.08050.

    Shapes: blocks take and return tokens (B, N, D); the layer over tokens is N × N.
    """
    # timm uses int(dim * ratio) channels and splits them in half. This ratio gives an even number,
    # and the added 0.5 keeps `int` from rounding it down to the next odd one.
    channels = 2 * round(dim * mlp_ratio / 2)
    blocks = [
        SpatialGatingBlock(
            dim, grid[0] * grid[1], mlp_ratio=(channels + 0.5) / dim, norm_layer=LAYER_NORM
        )
        for _ in range(depth)
    ]
    blocks = opened(
        blocks, lambda block: nn.Sequential(block.norm, block.mlp_channels), **shortcuts
    )
    return xavier_uniform(TokenBlocks(blocks))


MIXER = Family(
    "mixer",
    "an MLP over places, one a map size",
    build_mixer,
    {
        "depth": DEPTH,
        "mlp_ratio": MLP_RATIO,
        "token_ratio": Parameter(
            "float", 0.5, "hidden width of the token MLP over the width", "t{}", low=0.0625, high=4
        ),
        **SHORTCUTS,
    },
    one_length=always,
)
RESMLP = Family(
    "resmlp",
    "a linear map over places, no norm",
    build_resmlp,
    {"depth": DEPTH, "mlp_ratio": MLP_RATIO, **SHORTCUTS},
    norm="",
    one_length=always,
)
GMLP = Family(
    "gmlp",
    "a linear map over places that gates",
    build_gmlp,
    {"depth": DEPTH, "mlp_ratio": MLP_RATIO, **SHORTCUTS},
    one_length=always,
)
