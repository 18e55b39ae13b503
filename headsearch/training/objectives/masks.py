"""Blockwise masks over the patches of a map, and means over what they mask.

Shapes: M crops, H × W the grid, N = H · W cells, R rectangles.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SLIMMEST = 0.3
"""Height over width of a block lies between this and its inverse, as in BEiT, arXiv 2106.08254."""


def block_masks(
    count_M: Tensor,
    grid: tuple[int, int],
    generator: torch.Generator | None,
    *,
    area: tuple[float, float],
    rectangles: int = 32,
) -> Tensor:
    """Masks of an exact number of cells each, made of random blocks.

    Rectangles, none as high or as wide as the map, fall one after the other until enough cells are
    covered; the last one that is needed counts row by row as far as it is needed. BEiT and iBOT
    draw until it fits, which a device would have to wait for; here all rectangles are drawn at
    once, and cells are ordered by the first that covers them.

    Args:
        count_M: how many cells to mask in each crop, a whole number on the device that masks.
        grid: rows and columns of the map.
        generator: of that device; moves on by two draws. None only on `meta`.
        area: smallest and largest area of a rectangle, as a share of the map; uniform between.
        rectangles: how many are drawn; cells that none covers are masked last.

    Returns:
        (M, H, W) bool.
    """
    device, crops = count_M.device, len(count_M)
    height, width = grid
    draws = torch.rand((4, rectangles, crops), generator=generator, device=device)
    area_RM, ratio_RM, top_RM, left_RM = draws.unbind(0)
    area_RM = (area[0] + (area[1] - area[0]) * area_RM) * (height * width)
    side_ratio_RM = ((2 * ratio_RM - 1) * (-math.log(SLIMMEST) / 2)).exp()
    height_RM = (area_RM.sqrt() * side_ratio_RM).round().clamp(1, max(1, height - 1))
    width_RM = (area_RM.sqrt() / side_ratio_RM).round().clamp(1, max(1, width - 1))
    rows_RMH = _span(top_RM, height_RM, height)
    columns_RMW = _span(left_RM, width_RM, width)
    covers_RMN = (rows_RMH.unsqueeze(3) & columns_RMW.unsqueeze(2)).flatten(2)

    order_R11 = torch.arange(rectangles, device=device).view(-1, 1, 1)
    first_MN = torch.where(covers_RMN, order_R11, rectangles).amin(dim=0)
    cell_N = torch.arange(height * width, device=device)
    # From above or from below, so that no side of the map is masked more often.
    upward_M1 = torch.rand((crops, 1), generator=generator, device=device) < 0.5
    cell_MN = torch.where(upward_M1, height * width - 1 - cell_N, cell_N)
    rank_MN = (first_MN * (height * width) + cell_MN).argsort(dim=1).argsort(dim=1)
    return (rank_MN < count_M.unsqueeze(1)).view(crops, height, width)


def _span(start_RM: Tensor, length_RM: Tensor, size: int) -> Tensor:
    """Which of `size` cells lie in a span of this length, from a uniform number for its start."""
    start_RM1 = (start_RM * (size - length_RM + 1)).floor().unsqueeze(2)
    cell = torch.arange(size, device=start_RM.device)
    return (cell >= start_RM1) & (cell < start_RM1 + length_RM.unsqueeze(2))


def masked_mean(loss_MN: Tensor, mask_MHW: Tensor) -> Tensor:
    """The mean over the masked cells of each crop, 0 where it has none, then over crops."""
    mask_MN = mask_MHW.flatten(1).to(loss_MN.dtype)
    return ((loss_MN * mask_MN).sum(dim=1) / mask_MN.sum(dim=1).clamp(min=1)).mean()
