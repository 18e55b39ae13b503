"""What a dense proxy is: fitted on some patches of the training images, scored on others.

A map of a representation is (B, D, H, W). Images arrive in batches, in their order; nothing of them
is kept but the sampled rows, so memory does not grow with the number of images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

from torch import Tensor

Statistic: TypeAlias = Callable[[Tensor], float]
"""From the groups of evaluation images to use, (G,) bool, to the score on their images; NaN if it
is not defined there. The jackknife leaves groups out."""


class Fitted(Protocol):
    """A proxy that is fitted to one representation."""

    def observe(self, map_BDHW: Tensor, images: range) -> None:
        """Takes the maps of some evaluation images."""

    def statistics(self) -> Mapping[str, Statistic]:
        """The scores by their columns, once all images were observed."""


class DenseTask(Protocol):
    """A proxy for one data set and one grid, whatever the representation.

    Attributes:
        columns: the scores that it gives.
    """

    columns: tuple[str, ...]

    def rows(self, map_BDHW: Tensor, images: range) -> Tensor:
        """The features to keep of some training images: (n, D) float32."""

    def fit(self, rows_ND: Tensor) -> Fitted:
        """Fits the proxy to the kept features of all training images, in their order."""
