"""Cuts images with their masks and objects into tiles of the size that the base sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from headsearch.data.dense.images import INSTANCE_SIDE, Objects

MOST_TILES = 4
"""Along each side of an image."""
LEAST_SHARE = 0.5
"""An object of which less lies in a tile is ignored there, as a crowd is."""

A = TypeVar("A", bound=np.generic)


@dataclass(frozen=True)
class Tile:
    """One of rows × columns equal parts of an image."""

    row: int
    column: int
    rows: int
    columns: int

    def part(self, array: NDArray[A]) -> NDArray[A]:
        """The tile's part of an array whose last two dimensions are height and width."""
        height, width = array.shape[-2:]
        down = slice(height * self.row // self.rows, height * (self.row + 1) // self.rows)
        across = slice(
            width * self.column // self.columns, width * (self.column + 1) // self.columns
        )
        part: NDArray[A] = array[..., down, across]
        return part

    def __str__(self) -> str:
        return f"[{self.row}, {self.column}]"


def tile_counts(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Rows and columns of tiles of about `side` pixels in an image of this width and height."""
    width, height = size
    rows, columns = (min(MOST_TILES, max(1, round(each / side))) for each in (height, width))
    return rows, columns


def tiles_of(tiles: tuple[int, int]) -> Iterator[Tile]:
    """The tiles of an image, row by row."""
    rows, columns = tiles
    for row in range(rows):
        for column in range(columns):
            yield Tile(row, column, rows, columns)


def objects_in(objects: Objects, tile: Tile) -> Objects:
    """The objects that a tile shows, their boxes clipped, in fractions of the tile."""
    if tile.rows == tile.columns == 1:
        return objects
    scale = torch.tensor([tile.columns, tile.rows] * 2, dtype=torch.float32)
    offset = torch.tensor([tile.column, tile.row] * 2, dtype=torch.float32)
    whole_K4 = objects.boxes * scale - offset
    shown_K4 = whole_K4.clamp(0, 1)
    share_K = _area(shown_K4) / _area(whole_K4).clamp_min(1e-12)
    kept = share_K > 1e-3
    found = replace(
        objects,
        boxes=shown_K4[kept],
        labels=objects.labels[kept],
        ignored=objects.ignored[kept] | (share_K[kept] < LEAST_SHARE),
    )
    if objects.masks is None:
        return found
    masks = [
        _window(mask, whole, shown)
        for mask, whole, shown in zip(
            objects.masks[kept], whole_K4[kept], shown_K4[kept], strict=True
        )
    ]
    empty = torch.zeros(0, INSTANCE_SIDE, INSTANCE_SIDE, dtype=torch.bool)
    return replace(found, masks=torch.stack(masks) if masks else empty)


def _area(boxes_K4: torch.Tensor) -> torch.Tensor:
    return (boxes_K4[:, 2:] - boxes_K4[:, :2]).clamp_min(0).prod(1)


def _window(mask: torch.Tensor, whole: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """The mask of the shown part of a box, from that of the whole box, by its nearest cells."""
    cells = (torch.arange(INSTANCE_SIDE) + 0.5) / INSTANCE_SIDE
    rows, columns = (
        (
            (shown[axis] + cells * (shown[axis + 2] - shown[axis]) - whole[axis])
            / (whole[axis + 2] - whole[axis])
            * INSTANCE_SIDE
        )
        .long()
        .clamp(0, INSTANCE_SIDE - 1)
        for axis in (1, 0)
    )
    return mask[rows][:, columns]
