"""Chooses the classes of the bank and the queries, where a set has too many for their number.

A proxy can only classify a query whose class has images in the bank. With 1,000 classes and 1,000 bank
images most queries cannot be classified, whatever the features; so a subset of the classes is drawn, as
ImageNet-100 is of ImageNet.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headsearch.seeding import seeded_generator

BANK_IMAGES, QUERIES = 10, 2
"""The images of a class that bank and queries should hold at least."""


def classes_to_probe(
    bank: Tensor, queries: Tensor, limit: int, bank_images: int, eval_images: int, seed: int
) -> Tensor | None:
    """Draws the classes of bank and queries.

    At most `limit`, and so many that each has `BANK_IMAGES` in the bank and `QUERIES` among the queries
    on average. Classes with as many images are drawn; only where there are too few of them, those with
    most images are taken.

    Args:
        bank: (C,) how many images of each class the bank can be drawn from.
        queries: (C,) likewise; the same tensor if both are drawn from the same images.
        limit: the most classes; 0 for any number.
        bank_images, eval_images: the most images of bank and queries; 0 for any number.
        seed: decides which classes.

    Returns:
        (K,) int64 indices of classes in ascending order; None for all classes that both have.
    """
    shared = torch.equal(bank, queries)
    present = (bank >= 1) & (queries >= 1) & (bank >= 2 if shared else bank >= 1)
    wanted = int(((bank > 0) | (queries > 0)).sum())
    for most in (limit, bank_images // BANK_IMAGES, eval_images // QUERIES):
        if most:
            wanted = min(wanted, most)
    wanted = max(wanted, 2)
    if wanted >= int(((bank > 0) | (queries > 0)).sum()):
        return None
    least_bank = BANK_IMAGES + (QUERIES if shared else 0)
    large = present & (bank >= least_bank) & (queries >= QUERIES)
    if int(large.sum()) >= wanted:
        among = large.nonzero().flatten()
        drawn = torch.randperm(len(among), generator=seeded_generator(seed, "classes"))
        return among[drawn[:wanted]].sort().values
    size = torch.minimum(bank, queries) * present
    most_images = size.argsort(descending=True, stable=True)[:wanted]
    return most_images[size[most_images] > 0].sort().values


def counts(labels: Tensor, classes: Sequence[str], names: Sequence[str]) -> Tensor:
    """How many images there are of each of some classes, by name: (C,) int64.

    Args:
        labels: (N,) int64 indices into `classes`.
        classes: the classes of the images.
        names: the classes to count, C of them; those that are not in `classes` count 0.
    """
    of_each = torch.bincount(labels, minlength=len(classes))
    if tuple(classes) == tuple(names):
        return of_each
    number = {name: index for index, name in enumerate(classes)}
    return torch.tensor([int(of_each[number[n]]) if n in number else 0 for n in names])
