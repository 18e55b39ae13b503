"""Convolutional head families: ConvNeXt, MambaOut, ResNet bottleneck (also dilated), MBConv.

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
    CAUSAL,
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
from headsearch.models.heads.sequence import along_row
from headsearch.models.heads.shortcuts import SHORTCUTS, opened, replacing


def build_convnext(
    dim: int,
    grid: Grid,
    *,
    depth: int,
    kernel: int,
    mlp_ratio: float,
    causal: bool = False,
    **shortcuts: bool,
) -> nn.Module:
    """ConvNeXt blocks without layer scale: a depth-wise convolution, then an MLP.

    The default head of HSSL (Li et al. 2025, https://arxiv.org/abs/2310.05108) is three of these
    blocks with 7×7 kernels, the first one without its shortcut.

    Source: Liu et al., *A ConvNet for the 2020s*, CVPR 2022, https://arxiv.org/abs/2201.03545.

    Shapes: blocks take and return maps (B, D, H, W).
    """
    blocks = [
        ConvNeXtBlock(dim, kernel_size=kernel, mlp_ratio=mlp_ratio, ls_init_value=None)
        for _ in range(depth)
    ]
    head = nn.Sequential(*opened(blocks, replacing("shortcut"), **shortcuts))
    return truncated_normal(along_row(head, grid, causal=causal))


class _GatedWithoutShortcut(nn.Module):
    """MambaOut's block without its shortcut: (B, H, W, D) → (B, H, W, D)."""

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
    dim: int,
    grid: Grid,
    *,
    depth: int,
    kernel: int,
    mlp_ratio: float,
    causal: bool = False,
    **shortcuts: bool,
) -> nn.Module:
    """MambaOut blocks: one half of a wide layer gates the other half.

    The last D channels of the gated half first pass a depth-wise convolution. The block is Mamba's
    without the state space model.

    Source: Yu and Wang, *MambaOut: Do We Really Need Mamba for Vision?*, CVPR 2025,
    https://arxiv.org/abs/2405.07992.

    Shapes: blocks take and return maps (B, H, W, D).
    """
    blocks = [
        GatedConvBlock(dim, expansion_ratio=mlp_ratio, kernel_size=kernel, ls_init_value=None)
        for _ in range(depth)
    ]
    head = ChannelsLastBlocks(opened(blocks, _GatedWithoutShortcut, **shortcuts))
    return truncated_normal(along_row(head, grid, causal=causal))


def _group_norm(channels: int, act_layer: type[nn.Module] = nn.ReLU, **kwargs: Any) -> nn.Module:
    """A group norm with an activation, in the signature that timm's blocks expect of batch norm.

    It has 32 groups, timm's default, or the greatest common divisor of 32 and the channels.
    """
    # An activation in place would overwrite its input. `norm: none` or `batch` exchanges the norm
    # but keeps the activation, whose input autograd (or a shortcut) may then still need.
    kwargs.update(num_groups=math.gcd(channels, 32), act_layer=act_layer, inplace=False)
    norm: nn.Module = GroupNormAct(channels, **kwargs)
    return norm


def _convolution(kernel: int, inputs: int, outputs: int, size: int, **kwargs: Any) -> nn.Module:
    """timm's convolution layer, but with kernels of side `kernel` in place of the block's 3×3."""
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
    causal: bool = False,
    **shortcuts: bool,
) -> nn.Module:
    """Pre-activation ResNet bottlenecks with group norm in place of batch norm.

    A 1×1 convolution narrows the map, a full convolution mixes tokens, another 1×1 convolution
    widens it. With group norm the output for an image does not depend on the other images of the
    batch. Weights are initialised as in timm's ResNets (Kaiming, fan out) with one exception: timm
    sets the last convolution of each block to zero, which helps very deep networks but would make a
    head start as the identity. A dilation spreads the taps of the kernel.

    Source: He et al., *Identity Mappings in Deep Residual Networks*, ECCV 2016,
    https://arxiv.org/abs/1603.05027; for the dilation Yu et al., *Dilated Residual Networks*, CVPR
    2017, https://arxiv.org/abs/1705.09914.

    Shapes: blocks take and return maps (B, D, H, W).
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
    head = nn.Sequential(*opened(blocks, replacing("downsample"), **shortcuts))
    return normal_fan_out(along_row(head, grid, causal=causal))


def build_mbconv(
    dim: int,
    grid: Grid,
    *,
    depth: int,
    kernel: int,
    expansion: float,
    causal: bool = False,
    **shortcuts: bool,
) -> nn.Module:
    """Inverted residuals of MobileNetV2 with group norm in place of batch norm.

    A 1×1 convolution widens the map, a depth-wise convolution mixes tokens, another 1×1
    convolution narrows it, without an activation. The other activations are SiLU, as in
    EfficientNet. Squeeze-and-excitation is left out, because it would let every token depend on the
    whole map.

    Source: Sandler et al., *MobileNetV2: Inverted Residuals and Linear Bottlenecks*, CVPR 2018,
    https://arxiv.org/abs/1801.04381.

    Shapes: blocks take and return maps (B, D, H, W).
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
    head = nn.Sequential(*opened(blocks, _without_skip, **shortcuts))
    return normal_fan_out(along_row(head, grid, causal=causal))


def _without_skip(block: Any) -> nn.Module:
    block.has_skip = False
    assert isinstance(block, nn.Module)
    return block


def _settle_dilation(values: dict[str, Any], grid: Grid) -> None:
    """Drops taps of the kernel that lie off the map wherever the kernel is centred.

    If only the middle tap is left, the dilation has no effect and becomes the default.
    """
    taps_per_side = (max(grid) - 1) // values["dilation"]
    values["kernel"] = min(values["kernel"], 2 * taps_per_side + 1)
    if values["kernel"] == 1:
        values["dilation"] = DILATION.default


DILATION = Parameter(
    "int", 2, "distance between the taps of the kernel", "dil{}", always=True, low=2, high=16
)
BOTTLENECK_RATIO = Parameter(
    "float", 0.25, "width of the bottleneck over the width", "b{}", low=0.0625, high=1
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
        "causal": CAUSAL,
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
        "causal": CAUSAL,
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
        "causal": CAUSAL,
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
        "causal": CAUSAL,
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
        "causal": CAUSAL,
    },
    norm="group",
)
