"""Blockwise random masks over the patches of a feature map, and means over masked patches.

Shapes: M crops, H × W the grid, N = H · W cells (patches), R rectangles.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MIN_ASPECT_RATIO = 0.3
"""Height over width of a rectangle lies between this and its inverse, as in BEiT
(https://arxiv.org/abs/2106.08254)."""


def block_masks(
    count_M: Tensor,
    grid: tuple[int, int],
    generator: torch.Generator | None,
    *,
    area: tuple[float, float],
    rectangles: int = 32,
) -> Tensor:
    """Draws masks with an exact number of masked cells each, made of random rectangles.

    Rectangles, none as high or as wide as the map, are added in order until enough cells are
    covered. Of the last rectangle needed, cells count row by row up to the exact number.

    BEiT and iBOT redraw until the number fits, which would make a GPU wait for the host. Here all
    rectangles are drawn at once, and cells are sorted by the first rectangle that covers them.

    Args:
        count_M: the number of cells to mask in each crop: whole numbers, on the device to use.
        grid: rows and columns of the map.
        generator: a generator on that device, advanced by two draws; None only on `meta`.
        area: smallest and largest area of a rectangle, as a share of the map; uniform in between.
        rectangles: the number of rectangles drawn. Cells that none covers are masked last.

    Returns:
        The masks, (M, H, W) bool.
    """
    device, crops = count_M.device, len(count_M)
    height, width = grid
    draws = torch.rand((4, rectangles, crops), generator=generator, device=device)
    area_RM, ratio_RM, top_RM, left_RM = draws.unbind(0)
    # Rectangles of uniform area and log-uniform aspect ratio.
    area_RM = (area[0] + (area[1] - area[0]) * area_RM) * (height * width)
    side_ratio_RM = ((2 * ratio_RM - 1) * (-math.log(MIN_ASPECT_RATIO) / 2)).exp()
    height_RM = (area_RM.sqrt() * side_ratio_RM).round().clamp(1, max(1, height - 1))
    width_RM = (area_RM.sqrt() / side_ratio_RM).round().clamp(1, max(1, width - 1))
    rows_RMH = _span(top_RM, height_RM, height)
    columns_RMW = _span(left_RM, width_RM, width)
    covers_RMN = (rows_RMH.unsqueeze(3) & columns_RMW.unsqueeze(2)).flatten(2)

    # For each cell the first rectangle that covers it, or R if none does.
    order_R11 = torch.arange(rectangles, device=device).view(-1, 1, 1)
    first_MN = torch.where(covers_RMN, order_R11, rectangles).amin(dim=0)
    cell_N = torch.arange(height * width, device=device)
    # Row by row from the top or, at random, from the bottom: always from the top would mask the
    # upper half more often.
    upward_M1 = torch.rand((crops, 1), generator=generator, device=device) < 0.5
    cell_MN = torch.where(upward_M1, height * width - 1 - cell_N, cell_N)
    # The rank of each cell by rectangle, then by row: the inverse of the sorting permutation.
    rank_MN = (first_MN * (height * width) + cell_MN).argsort(dim=1).argsort(dim=1)
    return (rank_MN < count_M.unsqueeze(1)).view(crops, height, width)


def _span(start_RM: Tensor, length_RM: Tensor, size: int) -> Tensor:
    """Which of `size` cells in a line a span covers, (R, M, size) bool.

    Args:
        start_RM: uniform in [0, 1); scaled to the possible starts of the span.
        length_RM: lengths in cells.
        size: the number of cells.
    """
    start_RM1 = (start_RM * (size - length_RM + 1)).floor().unsqueeze(2)
    cell = torch.arange(size, device=start_RM.device)
    return (cell >= start_RM1) & (cell < start_RM1 + length_RM.unsqueeze(2))


def masked_mean(loss_MN: Tensor, mask_MHW: Tensor) -> Tensor:
    """The mean over the masked cells of each crop (0 if none is masked), then over crops."""
    mask_MN = mask_MHW.flatten(1).to(loss_MN.dtype)
    return ((loss_MN * mask_MN).sum(dim=1) / mask_MN.sum(dim=1).clamp(min=1)).mean()
