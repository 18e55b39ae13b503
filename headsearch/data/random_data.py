"""`random_data`: random clips or texts of a shape, to measure training steps without any files."""

from __future__ import annotations

import torch
from torch import Tensor

from headsearch.config.input_shape import TOKEN_BYTES, InputShape
from headsearch.data.image.skipped import LeftOut
from headsearch.data.image.store import ImagesInMemory
from headsearch.data.splits import Data

NAME = "random"


def random_data(domain: str, shape: InputShape, train: int, queries: int) -> Data:
    """Samples without labels, the same each time. Texts have no padding.

    Args:
        domain: the kind of data.
        shape: of one sample.
        train, queries: how many.
    """
    generator = torch.Generator().manual_seed(0)

    def samples(count: int) -> ImagesInMemory:
        drawn = _token_bytes if shape.vocabulary else _levels
        return ImagesInMemory(NAME, drawn(count, shape, generator), None, (), shape)

    none = torch.empty(0, dtype=torch.int64)
    return Data(samples(train), None, samples(queries), none, none, (), LeftOut(), domain=domain)


def _levels(count: int, shape: InputShape, generator: torch.Generator) -> Tensor:
    return torch.randint(256, (count, *shape.tensor), dtype=torch.uint8, generator=generator)


def _token_bytes(count: int, shape: InputShape, generator: torch.Generator) -> Tensor:
    """Token ids plus 1 as bytes, the lowest first, as `data/text/tokens.py` packs them."""
    ids = torch.randint(shape.vocabulary, (count, 1, shape.width), generator=generator)
    return torch.stack([(ids + 1) >> 8 * place & 255 for place in range(TOKEN_BYTES)], 1).byte()
