"""Base class of SimCLR, Barlow Twins and VICReg: one loss of two embeddings, without a teacher.

Shapes: 2B crops, D feature width, P width of the compared embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

from torch import Tensor, nn

from headsearch.device import full_precision
from headsearch.models.bases import BasePlan
from headsearch.models.network import AttachedHead, Network
from headsearch.training.objectives.across_views import AcrossViews
from headsearch.training.objectives.layers import mlp, upcast
from headsearch.training.objectives.objective import StepOutputs, TargetInputs, Targets


class EmbeddingProjection(nn.Module):
    """A projector; that of a head also holds the map from the base's embedding to the head's."""

    def __init__(self, dim: int, hidden: int, width: int, *, for_head: bool) -> None:
        super().__init__()
        self.projector = mlp([dim, hidden, hidden, width], norm=True)
        self.base_map = mlp([width, hidden, width], norm=True) if for_head else None


@dataclass(frozen=True)
class TwoEmbeddings(AcrossViews):
    """An objective whose `compare` is a loss between the embeddings of an image's two crops.

    As published, the gradient reaches the embeddings of both crops. So it does here in a head's own
    loss, and in the base's own loss when it follows no head.

    Where heads enter (our own form, after Li et al. 2025, https://arxiv.org/abs/2310.05108): the
    base's embedding of one crop is compared, by the same loss, with the head's embedding of the
    other crop at the same step. The head's embedding is detached, so the base follows the head,
    and this term does not change the head. The embeddings of two heads lie in spaces that nothing
    aligns, so each head owns a map from the base's embedding to its own.

    Args:
        hidden: width of the projector's hidden layers, and of the map's.
        width: P.
        clip_norm: maximum gradient norm of each parameter tensor.
    """

    hidden: int = 512
    width: int = 256
    clip_norm: float | None = 0.3
    has_teacher: ClassVar[bool] = False

    def base_projection(self, plan: BasePlan) -> nn.Module:
        return EmbeddingProjection(plan.dim, self.hidden, self.width, for_head=False)

    def head_projection(self, dim: int, of_base: nn.Module) -> nn.Module:
        return EmbeddingProjection(dim, self.hidden, self.width, for_head=True)

    def make_targets(self, inputs: TargetInputs) -> Targets:
        # Only the heterogeneous term needs targets: own losses compare two embeddings with
        # gradients on both sides.
        student = inputs.student
        return Targets({
            name: self.predict_from_head(student, head, inputs.features.pooled_BD(name))
            for name, head in student.heads.items()
        })  # fmt: skip

    def embed_base(self, network: Network, pooled_BD: Tensor) -> Tensor:
        return cast(Tensor, _projection(network).projector(pooled_BD))

    def predict_from_head(self, network: Network, head: AttachedHead, pooled_BD: Tensor) -> Tensor:
        return cast(Tensor, _projection(head).projector(pooled_BD))

    def predict_from_base(
        self, network: Network, head: AttachedHead | None, embedding_BP: Tensor
    ) -> Tensor:
        base_map = None if head is None else _projection(head).base_map
        return embedding_BP if base_map is None else cast(Tensor, base_map(embedding_BP))

    def own_loss_of_head(self, outputs: StepOutputs, name: str) -> Tensor:
        student, pooled_BD = outputs.student, outputs.features.pooled_BD(name)
        embedding = self.predict_from_head(student, student.heads[name], pooled_BD)
        return self._between_crops(embedding)

    def own_loss_of_base(self, outputs: StepOutputs, embedding: Tensor) -> Tensor:
        return self._between_crops(embedding)

    def _between_crops(self, embedding_BP: Tensor) -> Tensor:
        """The loss as published, between first and second crops, with gradients on both sides."""
        with full_precision(embedding_BP.device):
            return self.compare(*self.gather(upcast(embedding_BP)).chunk(2))


def _projection(owner: Network | AttachedHead) -> EmbeddingProjection:
    return cast(EmbeddingProjection, owner.projection)
