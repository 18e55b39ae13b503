"""Heads that work at another width than the base's.

Shape suffixes: B batch, D the base's width, H rows, W columns.
"""

from __future__ import annotations

from timm.layers import lecun_normal_
from torch import Tensor, nn

from headsearch.models.heads.family import Parameter

MULTIPLE = 8
"""Widths are whole multiples of it, so that attention heads and groups divide them."""


def inner_width(width: float, dim: int) -> int:
    """How many channels blocks of this share of the base's width have; `dim` where it is 1."""
    if width == 1:
        return dim
    return MULTIPLE * max(1, round(width * dim / MULTIPLE))


WIDTH = Parameter(
    "float",
    1.0,
    "width of the blocks over the base's; other than 1, a linear map leads into it and one back",
    "x{}",
    low=0.125,
    high=4,
    # Four digits, as a name shows it; the same width is found again from them.
    nearest=lambda width, dim: float(f"{inner_width(width, dim) / dim:.4g}"),
)


class AtWidth(nn.Module):
    """A head between two linear maps of the channels, into its own width and back.

    Nothing leads around them: of the base's map the output holds what passes this waist alone.
    """

    def __init__(self, dim: int, inner: int, head: nn.Module) -> None:
        super().__init__()
        self.into = nn.Conv2d(dim, inner, 1)
        self.head = head
        self.back = nn.Conv2d(inner, dim, 1)
        for projection in (self.into, self.back):
            lecun_normal_(projection.weight)  # keeps the variance of what comes in
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)

    def forward(self, map_BDHW: Tensor) -> Tensor:
        output_BDHW: Tensor = self.back(self.head(self.into(map_BDHW)))
        return output_BDHW
