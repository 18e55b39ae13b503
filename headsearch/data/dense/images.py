"""Decoded images with dense annotations, and the sets that dense proxies use.

Shapes: N images, S side of an image, h × w a mask's own size, K objects of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

VOID = -1
"""The class of pixels that do not count."""
INSTANCE_SIDE = 28
"""The side of the masks of objects, each within its box; that of Mask R-CNN (arXiv 1703.06870)."""
GROUPS = 10
"""Contiguous groups of each half of the evaluation images; the jackknife leaves one out."""


@dataclass(frozen=True)
class Objects:
    """The objects of one image.

    Attributes:
        boxes: (K, 4) float32: x0, y0, x1, y1 as fractions of the image's width and height.
        labels: (K,) int64, indices of the box classes.
        ignored: (K,) bool: crowds and difficult objects, which count neither as right nor as wrong.
        masks: (K, 28, 28) bool, the part of each box that the object covers; None if not known.
    """

    boxes: Tensor
    labels: Tensor
    ignored: Tensor
    masks: Tensor | None = None


@dataclass(frozen=True)
class DenseImages:
    """A set of images with their annotations, in their order. Neighbours may be alike (video).

    Attributes:
        names: of the images.
        pixels: (N, 3, S, S) uint8: the whole images, resized to squares whatever their aspect.
        masks: of each image (h, w) int16: classes, or `VOID`; None without masks.
        objects: of each image; None without boxes.
        source_N: (N,) int64, the number of the file that each is a tile of, ascending; None if
            images are not cut into tiles.
    """

    names: tuple[str, ...]
    pixels: Tensor
    masks: tuple[Tensor, ...] | None = None
    objects: tuple[Objects, ...] | None = None
    source_N: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def sources(self) -> int:
        """The number of files."""
        return len(self) if self.source_N is None else int(self.source_N[-1]) + 1


@dataclass(frozen=True)
class DenseData:
    """What dense proxies are fitted and scored on.

    Attributes:
        name: what the user called the data.
        train: the images that proxies are fitted on.
        evaluation: the images that they are scored on.
        mask_classes: the names of the classes of masks; empty without masks.
        box_classes: the names of the classes of boxes; empty without boxes.
        notes: what was understood, one line each.
    """

    name: str
    train: DenseImages
    evaluation: DenseImages
    mask_classes: tuple[str, ...]
    box_classes: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def group_N(self) -> Tensor:
        """The contiguous group of each evaluation image: (N,) int64, from 0 to 2·`GROUPS` − 1.

        Tiles of one image are in one group. Groups with even numbers choose between heads, those
        with odd numbers are reported on.
        """
        source_N = self.evaluation.source_N
        if source_N is None:
            source_N = torch.arange(len(self.evaluation))
        return source_N * (2 * GROUPS) // self.evaluation.sources

    @property
    def has_instance_masks(self) -> bool:
        """Whether objects have masks, in both sets."""
        return all(
            any(each.masks is not None and len(each.boxes) for each in images.objects or ())
            for images in (self.train, self.evaluation)
        )


def evenly_spaced(count: int, most: int) -> Sequence[int]:
    """At most `most` indices out of `count`, evenly spaced."""
    return range(count) if count <= most else [i * count // most for i in range(most)]
