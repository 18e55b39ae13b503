"""Who comes when: seeded orders of images that need no state, so that a run can resume anywhere."""

from __future__ import annotations

import torch
from torch import Tensor

from headsearch.seeding import seeded_generator


def epoch_order(count: int, epoch: int, seed: int) -> Tensor:
    """The order in which `count` images pass in one epoch: a permutation (count,) int64."""
    return torch.randperm(count, generator=seeded_generator(seed, "epoch", epoch))


def balanced_order(labels: Tensor | None, count: int, generator: torch.Generator) -> Tensor:
    """A random permutation (count,) int64 of which every prefix holds the classes in proportion.

    Up to rounding, that is; without labels it is a plain permutation. Splits cut from it one after
    another are disjoint and stratified, and a longer cut from the same place contains a shorter.

    Args:
        labels: (count,) int64, or None.
    """
    shuffled = torch.randperm(count, generator=generator)
    if labels is None:
        return shuffled
    grouped = shuffled[torch.argsort(labels[shuffled], stable=True)]
    _, sizes = torch.unique_consecutive(labels[grouped], return_counts=True)
    starts = torch.cumsum(sizes, 0) - sizes
    place = torch.arange(count) - torch.repeat_interleave(starts, sizes)
    # The k-th image of a class of c stands at (k + u)/c of the way, u random for each class.
    jitter = torch.rand(len(sizes), generator=generator, dtype=torch.float64)
    at = (place + torch.repeat_interleave(jitter, sizes)) / torch.repeat_interleave(sizes, sizes)
    return grouped[torch.argsort(at, stable=True)]
