"""Heads that convolve: depth-wise (ConvNeXt), gated (MambaOut), full (ResNet's bottleneck)."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from timm.layers import GroupNormAct, create_conv2d
from timm.models.convnext import ConvNeXtBlock
from timm.models.mambaout import GatedConvBlock
from timm.models.resnetv2 import PreActBottleneck
from torch import nn

from headsearch.heads.family import (
    DEPTH,
    FIRST_SHORTCUT,
    KERNEL,
    MLP_RATIO,
    Family,
    Grid,
    Parameter,
    with_default,
)
from headsearch.heads.init import truncated_normal
from headsearch.heads.layout import ChannelsLastBlocks, NoShortcut


def build_convnext(
    dim: int, grid: Grid, *, depth: int, kernel: int, mlp_ratio: float, first_shortcut: bool
) -> nn.Module:
    """ConvNeXt blocks (Liu et al. 2022) without layer scale.

    HSSL's default head is three of them, 7×7, the first without its shortcut.
    """
    blocks = [
        ConvNeXtBlock(dim, kernel_size=kernel, mlp_ratio=mlp_ratio, ls_init_value=None)
        for _ in range(depth)
    ]
    if not first_shortcut:
        blocks[0].shortcut = NoShortcut()
    return truncated_normal(nn.Sequential(*blocks))


def build_mambaout(dim: int, grid: Grid, *, depth: int, kernel: int, mlp_ratio: float) -> nn.Module:
    """Gated convolution (MambaOut, Yu & Wang 2025): half of a wide layer gates the other half.

    The second half's last `dim` channels pass a depth-wise convolution first. It is Mamba's block
    less its state space. timm's block gives no exact way around its one shortcut.
    """
    blocks = [
        GatedConvBlock(dim, expansion_ratio=mlp_ratio, kernel_size=kernel, ls_init_value=None)
        for _ in range(depth)
    ]
    return truncated_normal(ChannelsLastBlocks(blocks))


def _group_norm_relu(channels: int, **kwargs: Any) -> nn.Module:
    """32 groups, as timm's block has by default, or as many as divide the channels."""
    norm: nn.Module = GroupNormAct(channels, num_groups=math.gcd(channels, 32), **kwargs)
    return norm


def _convolution(kernel: int, inputs: int, outputs: int, size: int, **kwargs: Any) -> nn.Module:
    """The block's 1×1 convolutions as they are, its 3×3 with the side `kernel`."""
    side = size if size == 1 else kernel
    convolution: nn.Module = create_conv2d(inputs, outputs, side, bias=False, **kwargs)
    return convolution


def build_bottleneck(
    dim: int, grid: Grid, *, depth: int, kernel: int, bottleneck_ratio: float, first_shortcut: bool
) -> nn.Module:
    """ResNet's pre-activation bottleneck (He et al. 2016) with group norm for batch norm.

    So an image's output depends on no other image, in training as in scoring. Weights begin as in
    timm's ResNets (Kaiming, fan out), but for one thing: there the last convolution begins at zero
    for the sake of depth, and a head must not begin as the identity.
    """
    blocks = [
        PreActBottleneck(
            dim,
            bottle_ratio=bottleneck_ratio,
            conv_layer=partial(_convolution, kernel),
            norm_layer=_group_norm_relu,
        )
        for _ in range(depth)
    ]
    if not first_shortcut:
        blocks[0].downsample = NoShortcut()
    head = nn.Sequential(*blocks)
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return head


CONVNEXT = Family(
    "convnext",
    "depth-wise convolution: local, the same everywhere",
    build_convnext,
    {
        "depth": DEPTH,
        "kernel": KERNEL,
        "mlp_ratio": MLP_RATIO,
        "first_shortcut": FIRST_SHORTCUT,
    },
)
MAMBAOUT = Family(
    "mambaout",
    "gated depth-wise convolution",
    build_mambaout,
    {
        "depth": DEPTH,
        "kernel": KERNEL,
        "mlp_ratio": Parameter(
            "float", 2.667, "width of gate and of value over the width", "m{}", low=1, high=8
        ),
    },
)
BOTTLENECK = Family(
    "bottleneck",
    "full convolution through a narrow waist",
    build_bottleneck,
    {
        "depth": DEPTH,
        "kernel": with_default(KERNEL, 3),
        "bottleneck_ratio": Parameter(
            "float", 0.25, "width of the waist over the width", "b{}", low=0.0625, high=1
        ),
        "first_shortcut": FIRST_SHORTCUT,
    },
)
