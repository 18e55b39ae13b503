"""Computes depth-wise convolutions on small maps as one matrix product per channel, for speed.

If a kernel has at least as many taps as the map has positions, most taps fall off the map. The
matrix from positions to positions is then smaller than the work of the convolution, and hardware is
fastest at matrix products. Forward and backward of a 7×7 kernel on 128 maps of 384 channels on one
CPU core take 8 ms instead of 127 on 4×4 maps, and 31 ms instead of 290 on 7×7 maps (bfloat16;
`python benchmarks/depthwise.py`). The weights, their names and their initial values are those of
the convolution.

Shape suffixes: B batch, D width, H × W the map, N = H · W positions, K taps, M = N · N.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from headsearch.models.heads.family import Grid

LARGEST_TABLE = 2**20
"""Limit for the entries K · N² of the table from taps to pairs of positions.

It takes 4 MiB at this size, and each channel costs as many multiply-adds in a step.
"""


class DepthwiseOnSmallMap(nn.Conv2d):
    """A depth-wise convolution with zero padding that is a matrix product on maps of one size.

    Attributes:
        places_KM: 1 where a tap connects a pair of positions, else 0; see `_places`.
        grid: the (H, W) on which the matrix product is used.
    """

    places_KM: Tensor
    grid: torch.Size

    def forward(self, map_BDHW: Tensor) -> Tensor:
        shape = map_BDHW.shape
        if shape[2:] != self.grid:  # inside a head the map may be smaller
            return super().forward(map_BDHW)
        positions = shape[2] * shape[3]
        matrices_DNN = (self.weight.flatten(1) @ self.places_KM).view(-1, positions, positions)
        tokens_DBN = map_BDHW.flatten(2).transpose(0, 1)
        mixed_DBN = tokens_DBN.to(matrices_DNN.dtype) @ matrices_DNN
        mixed_BDHW = mixed_DBN.transpose(0, 1).reshape(shape)
        if self.bias is None:
            return mixed_BDHW
        return mixed_BDHW + self.bias.to(mixed_BDHW.dtype)[:, None, None]


def fit_to_map(head: nn.Module, grid: Grid) -> nn.Module:
    """Makes depth-wise convolutions of a head compute as matrix products on maps of this size.

    This applies to convolutions with at least H · W taps that keep the size of the map, unless the
    table from taps to pairs of positions exceeds `LARGEST_TABLE`.
    """
    for module in head.modules():
        if type(module) is nn.Conv2d and _covers(module, grid):
            # Changing the class keeps the parameters, their names and their values.
            module.__class__ = DepthwiseOnSmallMap
            fitted = cast(DepthwiseOnSmallMap, module)
            fitted.grid = torch.Size(grid)
            fitted.register_buffer("places_KM", _places(fitted, grid), persistent=False)
    return head


def _covers(conv: nn.Conv2d, grid: Grid) -> bool:
    """Whether a convolution can be a matrix product on this map, and is faster as one."""
    depthwise = conv.groups == conv.in_channels == conv.out_channels
    same_size = all(
        size % 2 == 1 and conv.padding in ("same", _margins(conv)) and stride == 1
        for size, stride in zip(conv.kernel_size, conv.stride, strict=True)
    )
    taps = conv.kernel_size[0] * conv.kernel_size[1]
    positions = grid[0] * grid[1]
    fits = positions <= taps <= LARGEST_TABLE / positions**2
    return depthwise and same_size and conv.padding_mode == "zeros" and fits


def _margins(conv: nn.Conv2d) -> tuple[int, ...]:
    """The padding (rows, columns) that keeps the size of the map."""
    sides = zip(conv.kernel_size, conv.dilation, strict=True)
    return tuple(size // 2 * dilation for size, dilation in sides)


def _places(conv: nn.Conv2d, grid: Grid) -> Tensor:
    """(K, N·N): 1 where tap k connects input position n to output position m, else 0.

    Rows of the matrix are input positions, columns output positions: the flat index is n · N + m.
    """
    rows, columns = grid
    (height, width), (down, across) = conv.kernel_size, conv.dilation
    row_N, column_N = (x.flatten() for x in torch.meshgrid(
        torch.arange(rows), torch.arange(columns), indexing="ij"))  # fmt: skip
    # With a dilation, positions between two taps give fractions here, which equal no tap below.
    tap_rows_NN = (row_N[:, None] - row_N[None, :]) / down + height // 2
    tap_columns_NN = (column_N[:, None] - column_N[None, :]) / across + width // 2
    places = torch.zeros(height * width, len(row_N) ** 2)
    for tap in range(height * width):
        hit_NN = (tap_rows_NN == tap // width) & (tap_columns_NN == tap % width)
        places[tap] = hit_NN.flatten().float()
    return places.to(conv.weight)
