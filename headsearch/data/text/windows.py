"""`windowed`: the texts of a run cut to one length, so that no map of theirs holds padding."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from headsearch.config.input_shape import InputShape
from headsearch.data.image.store import Images, ImagesInMemory
from headsearch.data.splits import Data
from headsearch.data.text.tokens import unpacked


def windowed(data: Data) -> Data:
    """Bank and queries without texts that are shorter than the median query, the others cut to it.

    Maps with padding cannot be compared place by place: they would measure lengths.
    """
    assert data.bank is not None
    length = int(_lengths(data.queries).median())
    queries, kept = _cut(data.queries, length)
    bank, _ = _cut(data.bank, length)
    place = torch.cumsum(kept, dim=0) - 1
    choose, report = (place[half[kept[half]]] for half in (data.choose, data.report))
    return replace(data, queries=queries, bank=bank, choose=choose, report=report)


def _lengths(texts: Images) -> Tensor:
    """The number of tokens of each text."""
    return (unpacked(texts.batch(torch.arange(len(texts)))) >= 0).sum(dim=1)


def _cut(texts: Images, length: int) -> tuple[Images, Tensor]:
    """The texts of at least this length, cut to it; and which they are, (N,) bool."""
    kept = _lengths(texts) >= length
    packed = texts.batch(kept.nonzero().flatten())[..., :length].contiguous()
    labels = None if texts.labels is None else texts.labels[kept]
    shape = InputShape.text(length, texts.shape.vocabulary)
    return ImagesInMemory(texts.name, packed, labels, texts.classes, shape), kept
