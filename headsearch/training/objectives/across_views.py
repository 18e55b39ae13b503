"""Base class of objectives in which each crop of an image predicts the target of the other crop.

A subclass defines how predictions and targets are made, and a one-way comparison of the two. This
class applies the comparison in both directions, q → v and v → q, and uses it for all three terms of
`objective.py`: ℓ_base, ℓ_h and the heterogeneous term, in which the base's prediction is compared
with the target of a head.

Shapes: 2B crops, D feature width, P width of predictions and targets.
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
    """Whether the loss compares different images of the batch, so that the embeddings of all
    processes must be gathered first. False for a mean of losses of single images."""

    @abstractmethod
    def embed_base(self, network: Network, pooled_BD: Tensor) -> Tensor:
        """The student's embedding (2B, P) of the base's features, computed once for all heads."""

    @abstractmethod
    def predict_from_head(self, network: Network, head: AttachedHead, pooled_BD: Tensor) -> Tensor:
        """The student's prediction (2B, P) from the features of a head."""

    @abstractmethod
    def predict_from_base(
        self, network: Network, head: AttachedHead | None, embedding_BP: Tensor
    ) -> Tensor:
        """The student's prediction (2B, P) from the base's embedding.

        Args:
            network: the student.
            head: the head whose target is predicted; None predicts the base's own target.
            embedding_BP: the result of `embed_base`.
        """

    @abstractmethod
    def compare(self, prediction_BP: Tensor, target_BP: Tensor) -> Tensor:
        """ℓ in one direction, a scalar: B predictions against the targets of the other crops.

        Both arguments are float32 or wider, and autocast is off, so products keep that precision.
        """

    def embedding_of_base(self, outputs: StepOutputs) -> Tensor:
        return self.embed_base(outputs.student, outputs.features.base.pooled_BD)

    def loss_toward_head(self, outputs: StepOutputs, name: str, embedding: Tensor) -> Tensor:
        head = outputs.student.heads[name]
        prediction = self.predict_from_base(outputs.student, head, embedding)
        return self.loss_both_ways(prediction, outputs.targets.by_owner[name])

    def own_loss_of_head(self, outputs: StepOutputs, name: str) -> Tensor:
        pooled_BD = outputs.features.pooled_BD(name)
        head = outputs.student.heads[name]
        prediction = self.predict_from_head(outputs.student, head, pooled_BD)
        return self.loss_both_ways(prediction, outputs.targets.by_owner[name])

    def own_loss_of_base(self, outputs: StepOutputs, embedding: Tensor) -> Tensor:
        prediction = self.predict_from_base(outputs.student, None, embedding)
        return self.loss_both_ways(prediction, outputs.targets.by_owner[None])

    def loss_both_ways(self, predictions_BP: Tensor, targets_BP: Tensor) -> Tensor:
        """The mean of `compare` over both directions: first crop → second, second → first."""
        first, second = self.gather(upcast(predictions_BP)).chunk(2)
        target_first, target_second = self.gather(upcast(targets_BP)).chunk(2)
        with full_precision(predictions_BP.device):
            ways = self.compare(first, target_second) + self.compare(second, target_first)
            return ways / 2

    def gather(self, embeddings_BP: Tensor) -> Tensor:
        """The embeddings of all processes if the loss compares images, else those passed in.

        A mean over single images needs no other process: each computes the mean over its own, and
        the gradients are averaged over processes afterwards.
        """
        return distributed.gather_crops(embeddings_BP) if self.compares_images else embeddings_BP


def pooled_by_owner(network: Network, features: Features) -> dict[str | None, Tensor]:
    """The pooled features of each head by name, and those of the base under None."""
    pooled: dict[str | None, Tensor] = {None: features.base.pooled_BD}
    return pooled | {name: features.pooled_BD(name) for name in network.heads}
