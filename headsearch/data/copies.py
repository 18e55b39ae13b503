"""Looks at the images of a run themselves: copies on both sides, and images that show nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from headsearch.config.domains import IMAGE, WORDS, Words
from headsearch.data.image.store import Images
from headsearch.text import counted

ON_DEMAND = 1024
"""How many images of a set that is decoded on demand are compared, spread evenly over it."""
SHARE = 0.01
"""From this share of a set on, images that are there more than once are worth a warning."""
CHUNK = 256
CONTRAST = 8
"""An image whose values differ by less than this many of 255 levels shows nothing."""


@dataclass(frozen=True)
class Contents:
    """The contents of a set of images.

    Attributes:
        name: what the user called their source.
        hashes: one for each image that was compared.
        empty: how many of these show nothing: they are of one colour.
    """

    name: str
    hashes: list[bytes]
    empty: int

    @classmethod
    def of(cls, images: Images) -> Contents:
        """Reads a set of images, or a sample of one that is decoded on demand."""
        hashes, empty = [], 0
        for image in _pixels(images):
            hashes.append(hashlib.blake2b(image.tobytes(), digest_size=16).digest())
            empty += int(image.max()) - int(image.min()) < CONTRAST
        return cls(images.name, hashes, empty)


def _pixels(images: Images) -> Iterator[NDArray[np.uint8]]:
    count = len(images) if images.in_memory else min(ON_DEMAND, len(images))
    chosen = torch.linspace(0, len(images) - 1, count, dtype=torch.float64).round().long()
    for part in chosen.split(CHUNK):
        yield from images.batch(part).numpy()


def copied(queries: Contents, others: list[Contents]) -> int:
    """How many of the queries have the content of an image of the others."""
    known = {each for other in others for each in other.hashes}
    return sum(each in known for each in queries.hashes)


def warnings_about(
    queries: Images,
    train: Images,
    bank: Images | None,
    *,
    own_queries: bool,
    words: Words = WORDS[IMAGE],
) -> Iterator[str]:
    """What makes the data of a run doubtful, one line each.

    Args:
        queries: the held-out images.
        train: the training images.
        bank: the labelled images that classifiers are fitted on.
        own_queries: whether the queries come from a set of their own (`--eval-data`).
        words: of their domain.
    """
    held, trained = Contents.of(queries), Contents.of(train)
    count = copied(held, [trained] if bank is None else [trained, Contents.of(bank)])
    if count:
        hint = "; leave --eval-data out to hold queries out of --data"
        copies = "is a copy" if count == 1 else "are copies"
        yield (
            f"{count} of {counted(len(held.hashes), 'query', 'queries')} {copies} of training or "
            f"bank {words.samples}, so not held out, and accuracies on copies are too high"
            f"{hint if own_queries and count == len(held.hashes) else ''}"
        )
    for what, contents in ((f"training {words.samples}", trained), ("queries", held)):
        total, distinct = len(contents.hashes), len(set(contents.hashes))
        if total - distinct >= max(1, SHARE * total):
            yield (
                f"{total - distinct} of {total} {what} of {contents.name} "
                f"{'is a copy' if total - distinct == 1 else 'are copies'} of others: "
                f"{distinct} {'is' if distinct == 1 else 'are'} distinct"
            )
        if words.nothing and contents.empty >= max(1, SHARE * total):
            yield (
                f"{contents.empty} of {total} {what} of {contents.name} "
                f"{words.nothing[contents.empty != 1]}"
            )
