"""Seeded randomness: every random choice depends only on the seed and its purpose.

A head therefore starts from the same weights in every cohort, and a step gets the same crops
whether or not the run was resumed before it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_for(seed: int, *purpose: int | str) -> int:
    """A 63-bit seed for one purpose, independent of the seeds for other purposes."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in purpose]
    state = np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))


def seeded_generator(
    seed: int, *purpose: int | str, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A torch generator on the device for one purpose."""
    return torch.Generator(device).manual_seed(seed_for(seed, *purpose))


@contextmanager
def seeded_layers(seed: int, *purpose: int | str, device: torch.device) -> Iterator[None]:
    """In this block, layers that use torch's global generators (drop path) are reproducible.

    The generators are restored afterwards.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed_for(seed, *purpose))
        yield


@contextmanager
def seeded_weights(seed: int, *purpose: int | str) -> Iterator[None]:
    """Modules built on the CPU in this block get weights determined by seed and purpose.

    The generator is restored afterwards.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, *purpose))
        yield
