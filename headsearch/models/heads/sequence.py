"""Heads on sequences, which are maps of one row: kernels along the row, and causal forms.

Shape suffixes: B batch, D width, H rows (1 here), W columns: the places of the sequence.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from timm.models.metaformer import Pooling
from torch import Tensor, nn

from headsearch.models.heads.family import Grid
from headsearch.models.heads.norm import renormalised


class CausalConv2d(nn.Conv2d):
    """A convolution along a row whose last tap lies on the output's own place."""

    def forward(self, map_BDHW: Tensor) -> Tensor:
        before = self.dilation[1] * (self.kernel_size[1] - 1)
        return super().forward(F.pad(map_BDHW, (before, 0)))


class NeighbourMean(Pooling):  # type: ignore[misc]  # timm has no types
    """PoolFormer's token mixing: the mean over neighbours minus the token itself.

    Attributes:
        causal: whether the neighbours are the token itself and those before it; for maps of one
            row.
        valid_BHW: bool; True where the map holds data, so that the mean is over such places only;
            None if it holds data everywhere.
    """

    causal = False
    valid_BHW: Tensor | None = None

    def forward(self, map_BDHW: Tensor) -> Tensor:
        if self.valid_BHW is None and not self.causal:
            mixed_BDHW: Tensor = super().forward(map_BDHW)
            return mixed_BDHW
        weight_B1HW = map_BDHW.new_ones(map_BDHW[:, :1].shape)
        if self.valid_BHW is not None:
            weight_B1HW = self.valid_BHW.unsqueeze(1).to(map_BDHW)
        sums_BDHW = self._sums(map_BDHW * weight_B1HW)
        # The least weight in a window that holds any data is that of one place.
        weights_B1HW = self._sums(weight_B1HW)
        return sums_BDHW / weights_B1HW.clamp(min=1) - map_BDHW

    def _sums(self, map_BDHW: Tensor) -> Tensor:
        """The sums over the neighbours of each place."""
        rows, columns = sides(self.pool.kernel_size)
        before = columns - 1 if self.causal else columns // 2
        padded = F.pad(map_BDHW, (before, columns - 1 - before, rows // 2, rows // 2))
        return F.avg_pool2d(padded, (rows, columns), 1, divisor_override=1)


def along_row(head: nn.Module, grid: Grid, *, causal: bool = False) -> nn.Module:
    """On a grid of one row, makes the kernels of a head one row high; leaves other heads alone.

    The other rows of a kernel would meet padding alone, yet cost parameters and time. The new
    convolutions have PyTorch's first weights: initialise the head afterwards.

    Args:
        head: a head whose convolutions keep the size of the map.
        grid: (H, W) of the map.
        causal: also make the output at a place independent of later places. Convolutions are
            padded on the left alone, means go over the places so far, and layer norms of single
            tokens replace norms over the map.
    """
    assert grid[0] == 1 or not causal, "Family.settled refuses it"
    if grid[0] > 1:
        return head
    for module in list(head.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d) and max(child.kernel_size) > 1:
                setattr(module, name, _in_one_row(child, causal))
        if isinstance(module, Pooling):
            _, columns = sides(module.pool.kernel_size)
            module.pool.kernel_size, module.pool.padding = (1, columns), (0, columns // 2)
        if causal and hasattr(module, "causal"):
            module.causal = True  # type: ignore[assignment]
    return renormalised(head, "layer") if causal else head


def sides(side: Any) -> tuple[int, int]:
    """(rows, columns) of a kernel that is given as such a pair or as one side."""
    rows, columns = side if isinstance(side, tuple) else (side, side)
    return rows, columns


def _in_one_row(conv: nn.Conv2d, causal: bool) -> nn.Conv2d:
    """A new convolution with the middle row of this one's kernel."""
    columns, dilation = conv.kernel_size[1], conv.dilation[1]
    kind = CausalConv2d if causal else nn.Conv2d
    return kind(
        conv.in_channels,
        conv.out_channels,
        (1, columns),
        padding=(0, 0 if causal else dilation * (columns // 2)),
        dilation=(1, dilation),
        groups=conv.groups,
        bias=conv.bias is not None,
    )
