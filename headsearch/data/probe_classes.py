"""Chooses the classes of bank and queries, where a set has too many for the number of images.

A proxy can only classify a query whose class has images in the bank. With 1,000 classes and 1,000
bank images most queries cannot be classified, whatever the features. So a subset of the classes is
drawn, as ImageNet-100 is of ImageNet; training images are of all classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headsearch.seeding import seeded_generator

BANK_IMAGES, QUERIES = 10, 2
"""The images of a class that bank and queries should hold at least."""
FEW = 10
"""So few classes are kept however small the bank is; the report warns then."""


def classes_to_probe(
    bank_C: Tensor,
    queries_C: Tensor | None,
    limit: int,
    bank_images: int,
    eval_images: int,
    seed: int,
) -> Tensor | None:
    """Draws the classes of bank and queries.

    There are at most `limit`, and so many that each has `BANK_IMAGES` in the bank and `QUERIES`
    among the queries on average. Classes with at least so many images are drawn; where there are
    too few of them, the classes with most images are taken.

    Args:
        bank_C: how many images of each class the bank can be drawn from.
        queries_C: likewise of the queries; None if they are drawn from the same images.
        limit: the most classes, 2 or more; 0 for all.
        bank_images, eval_images: the most images of bank and queries; 0 for any number.
        seed: decides which classes.

    Returns:
        (K,) int64 indices of classes in ascending order; None if no class need be left out.
    """
    if not limit:
        return None
    usable_C, least = bank_C, BANK_IMAGES + QUERIES
    if queries_C is not None:
        usable_C, least = torch.minimum(bank_C, queries_C * BANK_IMAGES // QUERIES), BANK_IMAGES
    count = int((bank_C > 0).sum())
    wanted = min(count, limit)
    for images, of_each in ((bank_images, BANK_IMAGES), (eval_images, QUERIES)):
        if images:
            wanted = min(wanted, max(FEW, images // of_each))
    if wanted >= count:
        return None
    large = (usable_C >= least).nonzero().flatten()
    if len(large) >= wanted:
        drawn = torch.randperm(len(large), generator=seeded_generator(seed, "classes"))[:wanted]
        return large[drawn].sort().values
    most_images = usable_C.argsort(descending=True, stable=True)[:wanted]
    # One image alone cannot be both in the bank and among the queries.
    usable = usable_C[most_images] > (1 if queries_C is None else 0)
    return most_images[usable].sort().values if int(usable.sum()) > 1 else None


def images_of_classes(labels: Tensor, classes: Sequence[str], names: Sequence[str]) -> Tensor:
    """How many images there are of each of some classes: (C,) int64.

    Args:
        labels: (N,) int64 indices into `classes`.
        classes: the classes of the images.
        names: the C classes to count; one that is not in `classes` has no images.
    """
    images = torch.bincount(labels, minlength=len(classes)).tolist()
    by_name = dict(zip(classes, images, strict=True))
    return torch.tensor([by_name.get(name, 0) for name in names])


def only_classes(order: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
    """The images of some classes, one of each class in turn, so that every start is balanced.

    Args:
        order: (N,) int64 indices of images, in random order.
        labels: int64 labels of all images, by index.
        chosen: (K,) int64 classes.
    """
    kept = order[torch.isin(labels[order], chosen)]
    return kept[_places(labels[kept])[0].argsort(stable=True)]


def apart(probed: Tensor, labels: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Splits images into queries and those for the bank, in the same order.

    Each class leaves `BANK_IMAGES` to the bank; one with fewer gives one query.

    Args:
        probed: (N,) int64 indices of images, as `only_classes` gives them.
        labels: int64 labels of all images, by index.
        most: the most queries.
    """
    place, size = _places(labels[probed])
    allowed = place < (size - BANK_IMAGES).clamp(min=1)
    queries = probed[allowed][:most]
    return queries, probed[~torch.isin(probed, queries)]


def _places(labels: Tensor) -> tuple[Tensor, Tensor]:
    """For each image, how many of its class come before it, and how many its class has: (N,)."""
    grouped = labels.argsort(stable=True)
    _, sizes = torch.unique_consecutive(labels[grouped], return_counts=True)
    starts = torch.cumsum(sizes, 0) - sizes
    place, size = torch.empty_like(labels), torch.empty_like(labels)
    place[grouped] = torch.arange(len(labels)) - torch.repeat_interleave(starts, sizes)
    size[grouped] = torch.repeat_interleave(sizes, sizes)
    return place, size
