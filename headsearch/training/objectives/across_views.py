"""Objectives in which each crop predicts the target of the other: what they share.

ℓ compares a prediction from one crop with the target of the other, over both ways. It serves the
base and the heads, on their own and toward one another, so that an objective says how predictions
and targets are made and compared, and no more.

Shapes: 2B crops, D width, P width of predictions and targets.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from headsearch.device import full_precision
from headsearch.models.network import AttachedHead, Features, Network
from headsearch.training import distributed
from headsearch.training.objectives.layers import upcast
from headsearch.training.objectives.objective import Objective, StepOutputs


class AcrossViews(Objective):
    """An objective whose predictions and targets are embeddings of pooled features."""

    compares_images: ClassVar[bool] = True
    """False: its loss is a mean over images, each alone, so that a rank needs none of others."""

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

    def embedding_of_base(self, seen: StepOutputs) -> Tensor:
        return self.of_base(seen.student, seen.features.base.pooled_BD)

    def toward(self, seen: StepOutputs, name: str, embedding: Tensor) -> Tensor:
        prediction = self.predict(seen.student, seen.student.heads[name], embedding)
        return self.swapped(prediction, seen.targets.of[name])

    def own_of_head(self, seen: StepOutputs, name: str) -> Tensor:
        pooled_BD = seen.features.pooled_BD(name)
        prediction = self.of_head(seen.student, seen.student.heads[name], pooled_BD)
        return self.swapped(prediction, seen.targets.of[name])

    def own_of_base(self, seen: StepOutputs, embedding: Tensor) -> Tensor:
        prediction = self.predict(seen.student, None, embedding)
        return self.swapped(prediction, seen.targets.of[None])

    def swapped(self, predictions_BP: Tensor, targets_BP: Tensor) -> Tensor:
        """The comparison with each crop predicting the other, averaged over the two ways."""
        first, second = self.of_all(upcast(predictions_BP)).chunk(2)
        target_first, target_second = self.of_all(upcast(targets_BP)).chunk(2)
        with full_precision(predictions_BP.device):
            ways = self.compare(first, target_second) + self.compare(second, target_first)
            return ways / 2

    def of_all(self, embeddings_BP: Tensor) -> Tensor:
        """What is to be compared: embeddings of the crops of all ranks, or this one's will do."""
        return distributed.gather_crops(embeddings_BP) if self.compares_images else embeddings_BP


def pooled_by_owner(network: Network, features: Features) -> dict[str | None, Tensor]:
    """The pooled features of the base, under None, and of each head."""
    pooled: dict[str | None, Tensor] = {None: features.base.pooled_BD}
    return pooled | {name: features.pooled_BD(name) for name in network.heads}
