"""A counter-based random number generator: each scene's numbers depend on its index alone."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: SplitMix64's increment


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output for the state x, a hash whose values for a counter look random.

    Steele, Lea and Flood, *Fast Splittable Pseudorandom Number Generators*, OOPSLA 2014, figure 17.
    """
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class CounterRng:
    """Draws uniform numbers for N scenes at once.

    A number depends on the seed, the index of its scene and how many numbers were drawn for that
    scene before. It does not depend on the other scenes, so any part of the dataset can be
    rendered by itself.

    Args:
        seed: the seed of the dataset.
        scenes_N: (N,) uint64 indices of the scenes.
    """

    def __init__(self, seed: int, scenes_N: NDArray[np.uint64]) -> None:
        seed_key_1 = mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64))
        self._keys_N1 = mix(mix(scenes_N) ^ seed_key_1)[:, None]
        self._drawn = 0

    def uniform(self, low: float, high: float) -> Tensor:
        """(N,) float32 in [low, high)."""
        counter_1 = np.array([self._drawn], dtype=np.uint64)
        self._drawn += 1
        bits_N = mix(self._keys_N1 + counter_1 * _GOLDEN)[:, 0]
        # A float32 in [0.5, 1) has 24 bits of precision.
        unit_N = (bits_N >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
        return torch.from_numpy(low + (high - low) * unit_N)

    def planar(self, low: float, high: float) -> Tensor:
        """(N, 1, 1) float32 in [low, high), to be broadcast over the pixels of a scene."""
        return self.uniform(low, high)[:, None, None]

    def chance(self, probability: float) -> Tensor:
        """(N, 1, 1) float32: 1 with this probability, else 0."""
        return (self.planar(0, 1) < probability).float()
