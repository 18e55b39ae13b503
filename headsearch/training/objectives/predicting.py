"""Base class of MoCo v3, BYOL and SimSiam: the student predicts the teacher's projection.

Shapes: 2B crops, D feature width, P width of the compared embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from headsearch.models.bases import BasePlan
from headsearch.models.network import AttachedHead, Network
from headsearch.training.objectives.across_views import AcrossViews, pooled_by_owner
from headsearch.training.objectives.layers import mlp
from headsearch.training.objectives.objective import TargetInputs, Targets


class PredictorProjection(nn.Module):
    """A projector and a predictor; that of a head also holds the base's predictor toward it."""

    def __init__(self, projector: list[int], predictor: list[int], *, for_head: bool) -> None:
        super().__init__()
        self.projector = mlp(projector, norm=True, last_norm=True)
        self.predictor = mlp(predictor, norm=True)
        self.base_predictor = mlp(predictor, norm=True) if for_head else None


@dataclass(frozen=True)
class Predicting(AcrossViews):
    """An objective with a predictor on the student's side only.

    The target is the teacher's projection of one crop. The prediction is the student's projection
    of the other crop, passed through a predictor.

    Where heads enter (our own form, after Li et al. 2025, https://arxiv.org/abs/2310.05108): the
    base predicts the projection of each head's teacher. The projections of two heads lie in spaces
    that nothing aligns, so each head owns a separate predictor from the base's projection to its
    own.

    Args:
        hidden: width of the hidden layers; the projector has two, the predictor one.
        width: P.
        clip_norm: maximum gradient norm of each parameter tensor.
    """

    hidden: int = 512
    width: int = 128
    clip_norm: float | None = 0.3

    def base_projection(self, plan: BasePlan) -> nn.Module:
        return self._make_projection(plan.dim, for_head=False)

    def head_projection(self, dim: int, of_base: nn.Module) -> nn.Module:
        return self._make_projection(dim, for_head=True)

    def _make_projection(self, dim: int, *, for_head: bool) -> nn.Module:
        return PredictorProjection(
            [dim, self.hidden, self.hidden, self.width],
            [self.width, self.hidden, self.width],
            for_head=for_head,
        )

    def make_targets(self, inputs: TargetInputs) -> Targets:
        teacher = inputs.teacher
        targets = {}
        for name, pooled_BD in pooled_by_owner(teacher, inputs.features).items():
            owner = teacher if name is None else teacher.heads[name]
            targets[name] = _projection(owner).projector(pooled_BD)
        return Targets(targets)

    def embed_base(self, network: Network, pooled_BD: Tensor) -> Tensor:
        return cast(Tensor, _projection(network).projector(pooled_BD))

    def predict_from_head(self, network: Network, head: AttachedHead, pooled_BD: Tensor) -> Tensor:
        projection = _projection(head)
        return cast(Tensor, projection.predictor(projection.projector(pooled_BD)))

    def predict_from_base(
        self, network: Network, head: AttachedHead | None, embedding_BP: Tensor
    ) -> Tensor:
        if head is None:
            return cast(Tensor, _projection(network).predictor(embedding_BP))
        predictor = _projection(head).base_predictor
        assert predictor is not None
        return cast(Tensor, predictor(embedding_BP))


def _projection(owner: Network | AttachedHead) -> PredictorProjection:
    return cast(PredictorProjection, owner.projection)
