"""Randomness by purpose: every random choice is a pure function of the seed and what it is for.

So a head starts from the same weights whatever cohort it is in, and a step sees the same crops
whether or not the run was resumed before it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_for(seed: int, *purpose: int | str) -> int:
    """A seed of 63 bits for one purpose, independent of those for others."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in purpose]
    state = np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))


def seeded_generator(
    seed: int, *purpose: int | str, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator of the device for one purpose."""
    return torch.Generator(device).manual_seed(seed_for(seed, *purpose))


@contextmanager
def seeded_layers(seed: int, *purpose: int | str, device: torch.device) -> Iterator[None]:
    """Layers that draw from torch's own generators (drop path) draw the same in this block."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed_for(seed, *purpose))
        yield


@contextmanager
def seeded_weights(seed: int, *purpose: int | str) -> Iterator[None]:
    """Modules built in this block on the CPU get weights fixed by the seed and the purpose."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, *purpose))
        yield
