"""Objectives in which each crop predicts the target of the other: what they share.

ℓ compares a prediction from one crop with the target of the other, over both ways. It serves the
base and the heads, on their own and toward one another, so that an objective says how predictions
and targets are made and compared, and no more.

Shapes: 2B crops, D width, P width of predictions and targets.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

from torch import Tensor

from headsearch.machine import full_precision
from headsearch.model import AttachedHead, Features, Network
from headsearch.objectives.layers import upcast
from headsearch.objectives.objective import Objective, Seen


class AcrossViews(Objective):
    """An objective whose predictions and targets are embeddings of pooled features."""

    @abstractmethod
    def of_base(self, network: Network, pooled_BD: Tensor) -> Tensor:
        """The student's embedding (2B, P) of the base's features, made once for all heads."""

    @abstractmethod
    def of_head(self, network: Network, head: AttachedHead, pooled_BD: Tensor) -> Tensor:
        """The student's prediction (2B, P) from a head's features."""

    @abstractmethod
    def predict(self, network: Network, head: AttachedHead | None, embedding_BP: Tensor) -> Tensor:
        """The base's prediction (2B, P) of a head's target, or of its own where head is None."""

    @abstractmethod
    def compare(self, prediction_BP: Tensor, target_BP: Tensor) -> Tensor:
        """ℓ one way: the loss (a scalar) of B predictions against the targets of the other crops.

        Both come in float32 or better, and products run in it.
        """

    def embedding_of_base(self, seen: Seen) -> Tensor:
        return self.of_base(seen.student, seen.features.base.pooled_BD)

    def toward(self, seen: Seen, name: str, embedding: Tensor) -> Tensor:
        prediction = self.predict(seen.student, seen.student.heads[name], embedding)
        return swapped(self.compare, prediction, seen.targets.of[name])

    def own_of_head(self, seen: Seen, name: str) -> Tensor:
        pooled_BD = seen.features.pooled_BD(name)
        prediction = self.of_head(seen.student, seen.student.heads[name], pooled_BD)
        return swapped(self.compare, prediction, seen.targets.of[name])

    def own_of_base(self, seen: Seen, embedding: Tensor) -> Tensor:
        prediction = self.predict(seen.student, None, embedding)
        return swapped(self.compare, prediction, seen.targets.of[None])


def swapped(
    compare: Callable[[Tensor, Tensor], Tensor], predictions: Tensor, targets: Tensor
) -> Tensor:
    """A comparison with each crop predicting the other, averaged over the two ways."""
    first, second = upcast(predictions).chunk(2)
    target_first, target_second = upcast(targets).chunk(2)
    with full_precision(predictions.device):
        return (compare(first, target_second) + compare(second, target_first)) / 2


def pooled_by_owner(network: Network, features: Features) -> dict[str | None, Tensor]:
    """The pooled features of the base, under None, and of each head."""
    pooled: dict[str | None, Tensor] = {None: features.base.pooled_BD}
    return pooled | {name: features.pooled_BD(name) for name in network.heads}
