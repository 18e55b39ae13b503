"""The parameter `width`: runs a head's blocks at another width than the base has.

Shape suffixes: B batch, D the base's width, H rows, W columns.
"""

from __future__ import annotations

from timm.layers import lecun_normal_
from torch import Tensor, nn

from headsearch.models.heads.family import Parameter

MULTIPLE = 8
"""Widths are multiples of this number, so that attention heads and norm groups divide them."""


def inner_width(width: float, dim: int) -> int:
    """The number of channels for a width relative to the base's `dim`; exactly `dim` for 1."""
    if width == 1:
        return dim
    return MULTIPLE * max(1, round(width * dim / MULTIPLE))


WIDTH = Parameter(
    "float",
    1.0,
    "width of the blocks over the base's; unless it is 1, linear maps lead into it and back",
    "x{}",
    low=0.125,
    high=4,
    # Four digits, as names show it; `inner_width` gives the same number of channels for them.
    nearest=lambda width, dim: float(f"{inner_width(width, dim) / dim:.4g}"),
)


class AtWidth(nn.Module):
    """A head between two linear maps of the channels, to its own width and back.

    There is no shortcut around it, so the output depends on the base's map through this bottleneck
    only.

    Args:
        dim: the width of the base's map.
        inner: the width of the head.
        head: the head at the inner width.
    """

    def __init__(self, dim: int, inner: int, head: nn.Module) -> None:
        super().__init__()
        self.into = nn.Conv2d(dim, inner, 1)
        self.head = head
        self.back = nn.Conv2d(inner, dim, 1)
        for projection in (self.into, self.back):
            lecun_normal_(projection.weight)  # keeps the variance of the features
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)

    def forward(self, map_BDHW: Tensor) -> Tensor:
        output_BDHW: Tensor = self.back(self.head(self.into(map_BDHW)))
        return output_BDHW
