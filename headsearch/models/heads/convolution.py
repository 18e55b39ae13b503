"""Heads that convolve: depth-wise (ConvNeXt, MBConv), gated (MambaOut), full (ResNet), with holes.

Shape suffixes: B batch, D width, H rows, W columns.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from timm.layers import GroupNormAct, create_conv2d
from timm.models._efficientnet_blocks import InvertedResidual
from timm.models.convnext import ConvNeXtBlock
from timm.models.mambaout import GatedConvBlock
from timm.models.resnetv2 import PreActBottleneck
from torch import Tensor, nn

from headsearch.models.heads.family import (
    DEPTH,
    KERNEL,
    MLP_RATIO,
    Family,
    Grid,
    Parameter,
    with_default,
)
from headsearch.models.heads.init import normal_fan_out, truncated_normal
from headsearch.models.heads.layout import ChannelsLastBlocks
from headsearch.models.heads.shortcuts import SHORTCUTS, opened, replacing


def build_convnext(
    dim: int, grid: Grid, *, depth: int, kernel: int, mlp_ratio: float, **shortcuts: bool
) -> nn.Module:
    """ConvNeXt blocks (Liu et al. 2022) without layer scale.

    HSSL's default head is three of them, 7×7, the first without its shortcut.
    """
    blocks = [
        ConvNeXtBlock(dim, kernel_size=kernel, mlp_ratio=mlp_ratio, ls_init_value=None)
        for _ in range(depth)
    ]
    return truncated_normal(nn.Sequential(*opened(blocks, replacing("shortcut"), **shortcuts)))


class _GatedWithoutShortcut(nn.Module):
    """MambaOut's block with its output in place of its input. (B, H, W, D) → (B, H, W, D)."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block: Any = block

    def forward(self, map_BHWD: Tensor) -> Tensor:
        block = self.block
        wide_BHWD = block.fc1(block.norm(map_BHWD))
        gate, plain, local = wide_BHWD.split(block.split_indices, dim=-1)
        local = block.conv(local.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        output_BHWD: Tensor = block.fc2(block.act(gate) * torch.cat([plain, local], dim=-1))
        return output_BHWD


def build_mambaout(
    dim: int, grid: Grid, *, depth: int, kernel: int, mlp_ratio: float, **shortcuts: bool
) -> nn.Module:
    """Gated convolution (MambaOut, Yu & Wang 2025): half of a wide layer gates the other half.

    The second half's last `dim` channels pass a depth-wise convolution first. It is Mamba's block
    less its state space.
    """
    blocks = [
        GatedConvBlock(dim, expansion_ratio=mlp_ratio, kernel_size=kernel, ls_init_value=None)
        for _ in range(depth)
    ]
    return truncated_normal(ChannelsLastBlocks(opened(blocks, _GatedWithoutShortcut, **shortcuts)))


def _group_norm(channels: int, act_layer: type[nn.Module] = nn.ReLU, **kwargs: Any) -> nn.Module:
    """With an activation. 32 groups, as timm has by default, or as many as divide the channels."""
    # Not in place: where another norm, or none, comes before it, its input may be needed again.
    kwargs.update(num_groups=math.gcd(channels, 32), act_layer=act_layer, inplace=False)
    norm: nn.Module = GroupNormAct(channels, **kwargs)
    return norm


def _convolution(kernel: int, inputs: int, outputs: int, size: int, **kwargs: Any) -> nn.Module:
    """The block's 1×1 convolutions as they are, its 3×3 with the side `kernel`."""
    side = size if size == 1 else kernel
    convolution: nn.Module = create_conv2d(inputs, outputs, side, bias=False, **kwargs)
    return convolution


def build_bottleneck(
    dim: int,
    grid: Grid,
    *,
    depth: int,
    kernel: int,
    bottleneck_ratio: float,
    dilation: int = 1,
    **shortcuts: bool,
) -> nn.Module:
    """ResNet's pre-activation bottleneck (He et al. 2016) with group norm for batch norm.

    So an image's output depends on no other image, in training as in scoring. Weights begin as in
    timm's ResNets (Kaiming, fan out), but for one thing: there the last convolution begins at zero
    for the sake of depth, and a head must not begin as the identity. With a dilation its kernel has
    holes, as in dilated residual networks (Yu et al. 2017).
    """
    blocks = [
        PreActBottleneck(
            dim,
            bottle_ratio=bottleneck_ratio,
            dilation=dilation,
            conv_layer=partial(_convolution, kernel),
            norm_layer=_group_norm,
        )
        for _ in range(depth)
    ]
    return normal_fan_out(nn.Sequential(*opened(blocks, replacing("downsample"), **shortcuts)))


def build_mbconv(
    dim: int, grid: Grid, *, depth: int, kernel: int, expansion: float, **shortcuts: bool
) -> nn.Module:
    """Inverted residuals (MobileNetV2, Sandler et al. 2018), with group norm for batch norm.

    The activation is EfficientNet's SiLU; there is no squeeze and excitation, which would let
    every token see the whole map.
    """
    blocks = [
        InvertedResidual(
            dim,
            dim,
            dw_kernel_size=kernel,
            exp_ratio=expansion,
            act_layer=nn.SiLU,
            norm_layer=partial(_group_norm, act_layer=nn.SiLU),
        )
        for _ in range(depth)
    ]
    return normal_fan_out(nn.Sequential(*opened(blocks, _without_skip, **shortcuts)))


def _without_skip(block: Any) -> nn.Module:
    block.has_skip = False
    assert isinstance(block, nn.Module)
    return block


def _settle_dilation(values: dict[str, Any], grid: Grid) -> None:
    """Taps beyond the map are left out; where only the middle one is left, no dilation matters."""
    taps = (max(grid) - 1) // values["dilation"]  # to one side of the middle
    values["kernel"] = min(values["kernel"], 2 * taps + 1)
    if values["kernel"] == 1:
        values["dilation"] = DILATION.default


DILATION = Parameter(
    "int", 2, "distance between the taps of the kernel", "dil{}", always=True, low=2, high=16
)
BOTTLENECK_RATIO = Parameter(
    "float", 0.25, "width of the waist over the width", "b{}", low=0.0625, high=1
)
CONVNEXT = Family(
    "convnext",
    "depth-wise convolution: local, the same everywhere",
    build_convnext,
    {
        "depth": DEPTH,
        "kernel": KERNEL,
        "mlp_ratio": MLP_RATIO,
        **SHORTCUTS,
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
        **SHORTCUTS,
    },
)
BOTTLENECK = Family(
    "bottleneck",
    "full convolution through a narrow waist",
    build_bottleneck,
    {
        "depth": DEPTH,
        "kernel": with_default(KERNEL, 3),
        "bottleneck_ratio": BOTTLENECK_RATIO,
        **SHORTCUTS,
    },
    norm="group",
)
DILATED = Family(
    "dilated",
    "full convolution with holes",
    build_bottleneck,
    {
        "depth": DEPTH,
        "kernel": with_default(KERNEL, 3),
        "dilation": DILATION,
        "bottleneck_ratio": BOTTLENECK_RATIO,
        **SHORTCUTS,
    },
    norm="group",
    settle=_settle_dilation,
)
MBCONV = Family(
    "mbconv",
    "depth-wise convolution in a wide layer, linear ends",
    build_mbconv,
    {
        "depth": DEPTH,
        "kernel": with_default(KERNEL, 3),
        "expansion": Parameter(
            "float", 4.0, "width of the wide layer over the width", "e{}", low=1, high=8
        ),
        **SHORTCUTS,
    },
    norm="group",
)
