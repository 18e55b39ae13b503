"""What SimCLR, Barlow Twins and VICReg share: one loss between two embeddings, and no teacher.

As published, the gradient reaches both crops' embeddings; so it is for a head's own loss, and for
the base's where it follows no head. In the heterogeneous form, which is ours, after Li et al. 2025,
arXiv 2310.05108, the base's embedding of one crop is compared, by the same loss, with the head's
embedding of the other crop, as it is at this step and without gradient: the base follows the head,
and the head is not dragged along. The embeddings of two heads live in spaces that nothing aligns,
so each head owns the map from the base's embedding into its own.

Shapes: 2B crops, P width of the embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

from torch import Tensor, nn

from headsearch.device import full_precision
from headsearch.models.bases import BasePlan
from headsearch.models.network import AttachedHead, Features, Network
from headsearch.training.objectives.across_views import AcrossViews
from headsearch.training.objectives.layers import mlp, upcast
from headsearch.training.objectives.objective import StepOutputs, Targets


class EmbeddingProjection(nn.Module):
    """A projector; a head's also holds the map of the base's embedding toward its own."""

    def __init__(self, dim: int, hidden: int, width: int, *, for_head: bool) -> None:
        super().__init__()
        self.projector = mlp([dim, hidden, hidden, width], norm=True)
        self.base_map = mlp([width, hidden, width], norm=True) if for_head else None


@dataclass(frozen=True)
class TwoEmbeddings(AcrossViews):
    """An objective whose `compare` is a loss between the embeddings of an image's two crops."""

    hidden: int = 512
    width: int = 256
    clip_norm: float | None = 0.3
    has_teacher: ClassVar[bool] = False

    def base_projection(self, plan: BasePlan) -> nn.Module:
        return EmbeddingProjection(plan.dim, self.hidden, self.width, for_head=False)

    def head_projection(self, dim: int, of_base: nn.Module) -> nn.Module:
        return EmbeddingProjection(dim, self.hidden, self.width, for_head=True)

    def targets(
        self,
        teacher: Network,
        student: Network,
        features: Features,
        crops_BCSS: Tensor,
        temperature: Tensor,
    ) -> Targets:
        return Targets({
            name: self.of_head(student, head, features.pooled_BD(name))
            for name, head in student.heads.items()
        })  # fmt: skip

    def of_base(self, network: Network, pooled_BD: Tensor) -> Tensor:
        return cast(Tensor, _of(network).projector(pooled_BD))

    def of_head(self, network: Network, head: AttachedHead, pooled_BD: Tensor) -> Tensor:
        return cast(Tensor, _of(head).projector(pooled_BD))

    def predict(self, network: Network, head: AttachedHead | None, embedding_BP: Tensor) -> Tensor:
        base_map = None if head is None else _of(head).base_map
        return embedding_BP if base_map is None else cast(Tensor, base_map(embedding_BP))

    def own_of_head(self, seen: StepOutputs, name: str) -> Tensor:
        pooled_BD = seen.features.pooled_BD(name)
        return self._between_crops(self.of_head(seen.student, seen.student.heads[name], pooled_BD))

    def own_of_base(self, seen: StepOutputs, embedding: Tensor) -> Tensor:
        return self._between_crops(embedding)

    def _between_crops(self, embedding_BP: Tensor) -> Tensor:
        """The loss as published, with the gradient on both sides."""
        with full_precision(embedding_BP.device):
            return self.compare(*self.of_all(upcast(embedding_BP)).chunk(2))


def _of(owner: Network | AttachedHead) -> EmbeddingProjection:
    return cast(EmbeddingProjection, owner.projection)
