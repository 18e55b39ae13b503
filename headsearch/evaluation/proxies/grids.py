"""What dense proxies share: cells of a grid, class histograms, positions, boxes in cells.

Shapes: B images, C classes, H × W the grid, h × w a mask, D width, P = H·W patches, K boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SAMPLES_CPU, SAMPLES_ACCELERATOR = 8_192, 102_400
"""Patches in the memory. The second number is that of Hummingbird's smaller memory."""
QUERIES_CPU = 20_000
"""About the most patches that a CPU segments: those of 100 images on a grid of 14×14."""
DEGREE = 3
"""Of the polynomials of a position."""


def samples_on(device: torch.device) -> int:
    """The most patches that are kept of the training images."""
    return SAMPLES_CPU if device.type == "cpu" else SAMPLES_ACCELERATOR


def queries_on(device: torch.device) -> int | None:
    """About the most patches of the evaluation images that are segmented; None for all."""
    return QUERIES_CPU if device.type == "cpu" else None


def overlaps(pixels: int, cells: int) -> Tensor:
    """The length that each cell of a side shares with each pixel: (cells, pixels), in pixels."""
    edges = torch.arange(cells + 1, dtype=torch.float64) * pixels / cells
    begins = torch.arange(pixels, dtype=torch.float64)
    shared = torch.minimum(edges[1:, None], begins + 1) - torch.maximum(edges[:-1, None], begins)
    return shared.clamp_min(0).float()


def patch_histograms(mask_hw: Tensor, classes: int, grid: tuple[int, int]) -> Tensor:
    """The area of each class in each patch of a mask, void left out: (C, H, W), in pixels.

    A patch is a cell of the grid laid over the whole mask; pixels on its border count by the part
    that lies inside.
    """
    one_hot = F.one_hot(mask_hw.long() + 1, classes + 1)[..., 1:].permute(2, 0, 1).float()
    rows, columns = overlaps(mask_hw.shape[0], grid[0]), overlaps(mask_hw.shape[1], grid[1])
    return rows @ one_hot @ columns.T


def normalised(histograms: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Histograms that sum to 1, and which of them have any pixel that counts."""
    total = histograms.sum(dim, keepdim=True)
    return histograms / total.clamp_min(1e-9), (total > 1e-6).squeeze(dim)


def polynomials(x: Tensor, y: Tensor) -> Tensor:
    """The products x^i·y^j of degree 1 to `DEGREE`, with x and y from −1 to 1: (…, 9)."""
    powers = [(i, degree - i) for degree in range(1, DEGREE + 1) for i in range(degree, -1, -1)]
    return torch.stack([x**i * y**j for i, j in powers], dim=-1)


def cell_centres(grid: tuple[int, int]) -> Tensor:
    """The centres x, y of the cells in units of cells, row by row: (P, 2)."""
    height, width = grid
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2) + 0.5


def position_map(images: int, grid: tuple[int, int]) -> Tensor:
    """Positions as features, which know nothing of the images: (B, 9, H, W)."""
    centres = cell_centres(grid) / torch.tensor([grid[1], grid[0]]) * 2 - 1
    features = polynomials(*centres.unbind(1)).T.reshape(1, -1, *grid)
    return features.expand(images, -1, -1, -1)


PIXELS_A_PATCH = 8
"""Raw pixels of a patch are shrunk to at most so many along each side."""


def pixel_map(images_B3SS: Tensor, grid: tuple[int, int]) -> Tensor:
    """The pixels of each patch as its features: (B, 3·k², H, W), k ≤ `PIXELS_A_PATCH`.

    Args:
        images_B3SS: normalised images.
        grid: H × W.
    """
    side = max(1, min(PIXELS_A_PATCH, images_B3SS.shape[-1] // max(grid)))
    shrunk = F.adaptive_avg_pool2d(images_B3SS.float(), (grid[0] * side, grid[1] * side))
    return F.pixel_unshuffle(shrunk, side)


def in_cells(boxes_K4: Tensor, grid: tuple[int, int]) -> Tensor:
    """Boxes in units of cells, from fractions of the image."""
    height, width = grid
    return boxes_K4 * torch.tensor([width, height, width, height], device=boxes_K4.device)


def regions_of(boxes: Sequence[Tensor]) -> Tensor:
    """Boxes of several images as torchvision's operators take them: (K, 5), the image first."""
    numbers = [torch.full((len(each), 1), float(i)) for i, each in enumerate(boxes)]
    parts = [torch.cat([n.to(b.device), b], dim=1) for n, b in zip(numbers, boxes, strict=True)]
    return torch.cat(parts) if parts else torch.zeros(0, 5)


def vectors(map_BDHW: Tensor) -> Tensor:
    """The tokens of a map, image by image, row by row: (B, P, D) float32."""
    return map_BDHW.float().flatten(2).transpose(1, 2)
