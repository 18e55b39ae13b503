"""Head families with large convolution kernels: ConvMixer, InceptionNeXt, FocalNet, VAN.

Each makes a large kernel affordable in another way: ConvMixer convolves depth-wise, InceptionNeXt
uses bands of one row or column, FocalNet stacks smaller kernels, VAN decomposes the kernel.

Shape suffixes: B batch, D width, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from timm.models.convmixer import Residual
from timm.models.focalnet import FocalModulation, FocalNetBlock
from timm.models.inception_next import InceptionDWConv2d, MetaNeXtBlock
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
from headsearch.models.heads.init import normal_fan_in, normal_fan_out, truncated_normal
from headsearch.models.heads.metaformer import metaformer
from headsearch.models.heads.sequence import along_row
from headsearch.models.heads.shortcuts import SHORTCUTS, WithoutShortcut, opened

VAN_DILATION = 3
"""The dilation of VAN's second kernel: a 5×5 and a dilated 7×7 kernel make up its 21×21 kernel."""


def build_convmixer(
    dim: int, grid: Grid, *, depth: int, kernel: int, causal: bool = False, **shortcuts: bool
) -> nn.Module:
    """ConvMixer blocks: a depth-wise, then a point-wise convolution.

    As published, each norm follows the activation. It is a layer norm over the channels of a token
    in place of the published batch norm (use `norm: batch` for that). Weights have the default
    initialisation of PyTorch, as in timm.

    Source: Trockman and Kolter, *Patches Are All You Need?*, TMLR 2023,
    https://arxiv.org/abs/2201.09792.

    Shapes: blocks take and return maps (B, D, H, W).
    """

    def convolution(side: int, groups: int) -> list[nn.Module]:
        layer = nn.Conv2d(dim, dim, side, padding=side // 2, groups=groups)
        return [layer, nn.GELU(), LayerNorm2d(dim)]

    blocks = [
        nn.Sequential(Residual(nn.Sequential(*convolution(kernel, dim))), *convolution(1, 1))
        for _ in range(depth)
    ]
    head = nn.Sequential(*opened(blocks, _without_residual, **shortcuts))
    return along_row(head, grid, causal=causal)


def _without_residual(block: Any) -> nn.Module:
    # `block[0]` is timm's `Residual`, which adds its input to the output of `fn`.
    return nn.Sequential(block[0].fn, *block[1:])


def build_inceptionnext(
    dim: int,
    grid: Grid,
    *,
    depth: int,
    kernel: int,
    mlp_ratio: float,
    causal: bool = False,
    **shortcuts: bool,
) -> nn.Module:
    """InceptionNeXt blocks, with layer norm for batch norm and no layer scale.

    One eighth of the channels is convolved with a 3×3 kernel, one eighth with a row of `kernel`
    tokens and one eighth with a column. The remaining channels are not mixed over tokens. On a
    sequence the square is three tokens long, and a column is a factor for each channel.

    Source: Yu et al., *InceptionNeXt: When Inception Meets ConvNeXt*, CVPR 2024,
    https://arxiv.org/abs/2303.16900.

    Shapes: blocks take and return maps (B, D, H, W).
    """
    blocks = [
        MetaNeXtBlock(
            dim,
            token_mixer=partial(InceptionDWConv2d, band_kernel_size=kernel),
            norm_layer=LayerNorm2d,
            mlp_ratio=mlp_ratio,
            ls_init_value=0,
        )
        for _ in range(depth)
    ]

    def without(block: Any) -> nn.Module:
        return nn.Sequential(block.token_mixer, block.norm, block.mlp)

    head = nn.Sequential(*opened(blocks, without, **shortcuts))
    return truncated_normal(along_row(head, grid, causal=causal))


class Modulation(FocalModulation):  # type: ignore[misc]  # timm has no types
    """FocalNet's token mixing, for maps with padding and for causal heads, too.

    Attributes:
        causal: whether the last context is the mean over the places so far, instead of all; for
            maps of one row.
        valid_BHW: bool; True where the map holds data, so that the mean is over such places only;
            None if it holds data everywhere.
    """

    causal = False
    valid_BHW: Tensor | None = None

    def forward(self, map_BDHW: Tensor) -> Tensor:
        query_BDHW, context_BDHW, gates = torch.split(self.f(map_BDHW), self.input_split, 1)
        contexts: Any = 0
        for level, layer in enumerate(self.focal_layers):
            context_BDHW = layer(context_BDHW)
            contexts = contexts + context_BDHW * gates[:, level : level + 1]
        contexts = contexts + self.act(self._mean(context_BDHW)) * gates[:, self.focal_level :]
        output_BDHW: Tensor = self.proj(query_BDHW * self.h(contexts))
        return output_BDHW

    def _mean(self, map_BDHW: Tensor) -> Tensor:
        """The mean of the map, (B, D, 1, 1), or that of the places so far, (B, D, 1, W)."""
        if self.valid_BHW is None and not self.causal:
            return map_BDHW.mean((2, 3), keepdim=True)
        weight_B1HW = map_BDHW.new_ones(map_BDHW[:, :1].shape)
        if self.valid_BHW is not None:
            weight_B1HW = self.valid_BHW.unsqueeze(1).to(map_BDHW)
        parts = (map_BDHW * weight_B1HW, weight_B1HW)
        if self.causal:
            sums, weights = (part.cumsum(3) for part in parts)
        else:
            sums, weights = (part.sum((2, 3), keepdim=True) for part in parts)
        return sums / weights.clamp(min=1)


def build_focalnet(
    dim: int,
    grid: Grid,
    *,
    depth: int,
    kernel: int,
    levels: int,
    mlp_ratio: float,
    causal: bool = False,
    **shortcuts: bool,
) -> nn.Module:
    """FocalNet blocks without layer scale: contexts modulate each token.

    Contexts are computed by depth-wise convolutions, one after another. The first has a kernel of
    side `kernel`, each next one is two tokens wider, and the mean of the map is the last context.
    Weights are initialised by fan-in. With timm's standard deviation of 0.02 the products of
    contexts and gates vanish where no shortcut helps (1e-17 measured after three blocks of width
    64).

    Source: Yang et al., *Focal Modulation Networks*, NeurIPS 2022,
    https://arxiv.org/abs/2203.11926.

    Shapes: blocks take and return maps (B, D, H, W).
    """
    blocks: list[Any] = [
        FocalNetBlock(
            dim,
            mlp_ratio=mlp_ratio,
            focal_level=levels,
            focal_window=kernel,
            layerscale_value=None,
        )
        for _ in range(depth)
    ]
    for block in blocks:
        block.modulation.__class__ = Modulation  # which keeps timm's weights
    blocks = opened(blocks, partial(WithoutShortcut, mixing="modulation"), **shortcuts)
    return normal_fan_in(along_row(nn.Sequential(*blocks), grid, causal=causal))


class LargeKernelAttention(nn.Module):
    """Large kernel attention of VAN (Guo et al. 2023, eq. 3–4); see `build_van`.

    The kernel consists of a 5×5 kernel (`near`), a dilated one (`far`) and a 1×1 convolution
    (`mix`).

    Args:
        dim: the width of the map.
        kernel: the side of the dilated kernel, in taps.
    """

    def __init__(self, dim: int, kernel: int, **_: Any) -> None:
        super().__init__()
        padding = VAN_DILATION * (kernel // 2)
        self.into = nn.Conv2d(dim, dim, 1)
        self.near = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.far = nn.Conv2d(dim, dim, kernel, padding=padding, dilation=VAN_DILATION, groups=dim)
        self.mix = nn.Conv2d(dim, dim, 1)
        self.back = nn.Conv2d(dim, dim, 1)

    def forward(self, map_BDHW: Tensor) -> Tensor:
        map_BDHW = F.gelu(self.into(map_BDHW))
        output_BDHW: Tensor = self.back(map_BDHW * self.mix(self.far(self.near(map_BDHW))))
        return output_BDHW


def build_van(
    dim: int, grid: Grid, *, depth: int, kernel: int, causal: bool = False, **shortcuts: bool
) -> nn.Module:
    """Blocks of the Visual Attention Network (VAN), with layer norm for batch norm.

    Tokens are multiplied by the output of a large depth-wise kernel, decomposed into a 5×5 kernel,
    a kernel of `kernel` taps with a dilation of 3, and a 1×1 convolution. Unlike in the paper, the
    MLP has no depth-wise convolution and the attention has no inner shortcut, so that only the
    large kernel mixes tokens.

    Source: Guo et al., *Visual Attention Network*, Computational Visual Media 2023,
    https://arxiv.org/abs/2202.09741, equations 3 and 4.

    Shapes: blocks take and return maps (B, D, H, W).
    """
    mixer = partial(LargeKernelAttention, kernel=kernel)
    head = metaformer(dim, depth, mixer, LayerNorm2d, **shortcuts)
    return normal_fan_out(along_row(head, grid, causal=causal))


CONVMIXER = Family(
    "convmixer",
    "wide depth-wise kernels, no MLP",
    build_convmixer,
    {"depth": DEPTH, "kernel": with_default(KERNEL, 9), **SHORTCUTS, "causal": CAUSAL},
)
INCEPTIONNEXT = Family(
    "inceptionnext",
    "a square, a row and a column, some channels each",
    build_inceptionnext,
    {
        "depth": DEPTH,
        "kernel": with_default(KERNEL, 11),
        "mlp_ratio": MLP_RATIO,
        **SHORTCUTS,
        "causal": CAUSAL,
    },
)
FOCALNET = Family(
    "focalnet",
    "contexts of growing width that gate a token",
    build_focalnet,
    {
        "depth": DEPTH,
        "kernel": with_default(KERNEL, 3),
        "levels": Parameter("int", 2, "how many contexts", "l{}", low=1, high=4),
        "mlp_ratio": MLP_RATIO,
        **SHORTCUTS,
        "causal": CAUSAL,
    },
    multiplies=True,
)
VAN = Family(
    "van",
    "a large kernel, taken apart, that gates a token",
    build_van,
    {
        "depth": DEPTH,
        # The dilated kernel: it spans about VAN_DILATION times as many tokens as its side in taps.
        "kernel": replace(
            KERNEL, largest_useful=lambda grid: 2 * ((max(grid) - 1) // VAN_DILATION) + 1
        ),
        **SHORTCUTS,
        "causal": CAUSAL,
    },
    multiplies=True,
)
