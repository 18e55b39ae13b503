"""The head family `gfnet`: token mixing by a learned filter in the Fourier domain.

Shape suffixes: B batch, D width, H rows, W columns, V = W // 2 + 1 frequencies along a row.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from headsearch.models.heads.family import DEPTH, Family, Grid, always
from headsearch.models.heads.init import truncated_normal
from headsearch.models.heads.metaformer import metaformer
from headsearch.models.heads.shortcuts import SHORTCUTS


class GlobalFilter(nn.Module):
    """A depth-wise circular convolution with a kernel of the map's size (GFNet, Rao et al. 2021).

    The weights are complex factors of the frequencies, stored as pairs of real numbers. They are
    initialised as published: normal with standard deviation 0.02.
    """

    def __init__(self, dim: int, grid: Grid, **_: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(dim, grid[0], grid[1] // 2 + 1, 2))

    def forward(self, map_BDHW: Tensor) -> Tensor:
        # PyTorch has no FFT in half precision for most sizes.
        full_BDHW = map_BDHW if map_BDHW.dtype == torch.float64 else map_BDHW.float()
        waves_BDHV = torch.fft.rfft2(full_BDHW, norm="ortho") * torch.view_as_complex(self.weight)
        mixed_BDHW: Tensor = torch.fft.irfft2(waves_BDHV, s=map_BDHW.shape[-2:], norm="ortho")
        return mixed_BDHW


def build_gfnet(dim: int, grid: Grid, *, depth: int, **shortcuts: bool) -> nn.Module:
    """MetaFormer blocks with GFNet's global filter as token mixer.

    The map's discrete Fourier transform is multiplied by learned complex weights and transformed
    back. There is a shortcut around each filter.

    Source: Rao et al., *Global Filter Networks for Image Classification*, NeurIPS 2021,
    https://arxiv.org/abs/2107.00645.

    Shapes: blocks take and return maps (B, D, H, W); a filter has D · H · (⌊W/2⌋ + 1) complex
    weights.
    """
    mixer = partial(GlobalFilter, grid=grid)
    return truncated_normal(metaformer(dim, depth, mixer, LayerNorm2d, **shortcuts))


GFNET = Family(
    "gfnet",
    "a learned filter of the map's frequencies",
    build_gfnet,
    {"depth": DEPTH, **SHORTCUTS},
    multiplies=True,
    one_length=always,
)
