"""Runs a base over images batch by batch and gathers what its blocks give.

Dimensions: B images of a batch, P probe images, N tokens, D width, S image side; blocks are counted
from the first, 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headsearch.config.normalization import Normalization
from headsearch.data import Images
from headsearch.data.domain import Domain
from headsearch.evaluation.features import batches
from headsearch.evaluation.similarity import gram, map_features
from headsearch.models.bases import Base
from headsearch.models.network import tokens_of

FEATURE_BYTES = 2**30
"""At most so many bytes of token maps of the probe images are held at a time."""
OnImages = Callable[[int], object]
"""Told how many images have just been done."""


@dataclass(frozen=True)
class Forward:
    """A base in evaluation mode that is run on images.

    Attributes:
        base: the base.
        depth: the number of its maps, of which block 1 is the earliest.
        domain: the kind of data.
        normalization: that of the images that it was trained with.
        batch: images in a forward pass.
        on_images: told of each batch.
    """

    base: Base
    depth: int
    domain: Domain
    normalization: Normalization
    batch: int
    on_images: OnImages

    @property
    def device(self) -> torch.device:
        """The device that it runs on."""
        return next(self.base.parameters()).device

    def pixels(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) uint8 as the base takes them."""
        return self.domain.as_input(images.to(self.device), self.normalization)

    def maps(self, images: Tensor, blocks: Sequence[int] | None = None) -> dict[int, Tensor]:
        """The maps (B, D, H, W) float32 of images, by block; all blocks by default."""
        return self.maps_of(self.pixels(images), blocks)

    def maps_of(self, pixels: Tensor, blocks: Sequence[int] | None = None) -> dict[int, Tensor]:
        """`maps` of images that are normalised already."""
        wanted = list(range(1, self.depth + 1)) if blocks is None else list(blocks)
        indices = sorted({0, *(self.depth - block for block in wanted)})
        found = self.base(pixels, feature_indices=indices).maps_BDHW
        return {block: found[self.depth - block].float() for block in wanted}

    def over(self, images: Images | None, last: int | None = None) -> Iterator[Tensor]:
        """Batches of images (B, 3, S, S) uint8, told of as each is done."""
        for batch in batches(images, self.batch, last=last):
            yield batch
            self.on_images(len(batch))

    @torch.no_grad()
    def grams(self, images: Images, count: int) -> dict[int, Tensor]:
        """The Gram matrices (P, P) float32 of the token maps of the first images, by block.

        Token maps of several blocks are held together only as far as they fit `FEATURE_BYTES`.
        """
        first = self.maps(images.batch(torch.arange(1)))
        sizes = {block: count * map_BDHW.numel() * 4 for block, map_BDHW in first.items()}
        found: dict[int, Tensor] = {}
        for group in grouped(sizes, FEATURE_BYTES):
            parts: dict[int, list[Tensor]] = {block: [] for block in group}
            for batch in batches(images, self.batch, last=count):
                for block, map_BDHW in self.maps(batch, group).items():
                    parts[block].append(map_features(tokens_of(map_BDHW)))
            for block in group:
                found[block] = gram(torch.cat(parts.pop(block))).float().cpu()
        return found


def grouped(sizes: dict[int, int], limit: int) -> list[list[int]]:
    """Blocks in order, in groups whose sizes stay within a limit; each has at least one."""
    groups: list[list[int]] = [[]]
    held = 0
    for block, size in sizes.items():
        if groups[-1] and held + size > limit:
            groups.append([])
            held = 0
        groups[-1].append(block)
        held += size
    return groups
