"""Depth-wise convolutions on maps that their kernel covers, as one matrix a channel.

Where a kernel has as many taps as the map has places, or more, most taps fall off the map: the
matrix from places to places is smaller than the work of the convolution, and multiplying by it is
what hardware does best. Forward and backward of a 7×7 kernel, 128 maps of 384 channels on one CPU
core: 8 ms in place of 127 on 4×4 maps, 31 in place of 290 on 7×7 (bfloat16; `python
benchmarks/depthwise.py`). Weights, their names and their first values are those of the convolution.

Shape suffixes: B batch, D width, H × W the map, N = H · W places, K taps.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from headsearch.models.heads.family import Grid

LARGEST_TABLE = 2**20
"""Entries of the table from taps to places, K · N²: 4 MiB, and as much work a channel and step."""


class DepthwiseOnSmallMap(nn.Conv2d):
    """A depth-wise convolution with zero padding, on maps of one size computed as matrices."""

    places_KM: Tensor
    grid: torch.Size

    def forward(self, map_BDHW: Tensor) -> Tensor:
        shape = map_BDHW.shape
        if shape[2:] != self.grid:  # a head may shrink its map on the way
            return super().forward(map_BDHW)
        places = shape[2] * shape[3]
        matrices_DNN = (self.weight.flatten(1) @ self.places_KM).view(-1, places, places)
        tokens_DBN = map_BDHW.flatten(2).transpose(0, 1)
        mixed_DBN = tokens_DBN.to(matrices_DNN.dtype) @ matrices_DNN
        mixed_BDHW = mixed_DBN.transpose(0, 1).reshape(shape)
        if self.bias is None:
            return mixed_BDHW
        return mixed_BDHW + self.bias.to(mixed_BDHW.dtype)[:, None, None]


def fit_to_map(head: nn.Module, grid: Grid) -> nn.Module:
    """Lets the depth-wise convolutions of a head that see maps of this size compute as matrices.

    Only those whose kernel has H · W taps or more, and which keep the size of the map; where the
    table that leads from taps to places would be large (LARGEST_TABLE), none.
    """
    for module in head.modules():
        if type(module) is nn.Conv2d and _covers(module, grid):
            module.__class__ = DepthwiseOnSmallMap
            fitted = cast(DepthwiseOnSmallMap, module)
            fitted.grid = torch.Size(grid)
            fitted.register_buffer("places_KM", _places(fitted, grid), persistent=False)
    return head


def _covers(conv: nn.Conv2d, grid: Grid) -> bool:
    depthwise = conv.groups == conv.in_channels == conv.out_channels
    same = all(
        size % 2 == 1 and conv.padding in ("same", _margins(conv)) and stride == 1
        for size, stride in zip(conv.kernel_size, conv.stride, strict=True)
    )
    taps = conv.kernel_size[0] * conv.kernel_size[1]
    places = grid[0] * grid[1]
    fits = places <= taps <= LARGEST_TABLE / places**2
    return depthwise and same and conv.padding_mode == "zeros" and fits


def _margins(conv: nn.Conv2d) -> tuple[int, ...]:
    sides = zip(conv.kernel_size, conv.dilation, strict=True)
    return tuple(size // 2 * dilation for size, dilation in sides)


def _places(conv: nn.Conv2d, grid: Grid) -> Tensor:
    """(K, N·N): which tap leads from each place of the map to each, 1 for that and 0 else."""
    rows, columns = grid
    (height, width), (down, across) = conv.kernel_size, conv.dilation
    row_N, column_N = (x.flatten() for x in torch.meshgrid(
        torch.arange(rows), torch.arange(columns), indexing="ij"))  # fmt: skip
    tap_rows_NN = (row_N[:, None] - row_N[None, :]) / down + height // 2
    tap_columns_NN = (column_N[:, None] - column_N[None, :]) / across + width // 2
    places = torch.zeros(height * width, len(row_N) ** 2)
    for tap in range(height * width):
        hit_NN = (tap_rows_NN == tap // width) & (tap_columns_NN == tap % width)
        places[tap] = hit_NN.flatten().float()
    return places.to(conv.weight)
