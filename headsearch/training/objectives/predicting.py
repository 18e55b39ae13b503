"""What MoCo v3, BYOL and SimSiam share: a predictor on the student's side alone.

The target is the projection of the teacher; the prediction is the student's projection after a
predictor. In the heterogeneous form, which is ours, after Li et al. 2025, arXiv 2310.05108, the
base predicts the projection of each head's teacher. Each head owns the predictor of the base
toward it, since the projections of two heads live in spaces that nothing aligns.

Shapes: 2B crops, P width of the compared embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from headsearch.models.bases import BasePlan
from headsearch.models.network import AttachedHead, Features, Network
from headsearch.training.objectives.across_views import AcrossViews, pooled_by_owner
from headsearch.training.objectives.layers import mlp
from headsearch.training.objectives.objective import Targets


class PredictorProjection(nn.Module):
    """Projector and predictor; a head's also holds the predictor of the base toward it."""

    def __init__(self, projector: list[int], predictor: list[int], *, for_head: bool) -> None:
        super().__init__()
        self.projector = mlp(projector, norm=True, last_norm=True)
        self.predictor = mlp(predictor, norm=True)
        self.base_predictor = mlp(predictor, norm=True) if for_head else None


@dataclass(frozen=True)
class Predicting(AcrossViews):
    """An objective with a predictor; `hidden` layers of the projector are two, of the predictor
    one."""

    hidden: int = 512
    width: int = 128
    clip_norm: float | None = 0.3

    def base_projection(self, plan: BasePlan) -> nn.Module:
        return self._projection(plan.dim, for_head=False)

    def head_projection(self, dim: int, of_base: nn.Module) -> nn.Module:
        return self._projection(dim, for_head=True)

    def _projection(self, dim: int, *, for_head: bool) -> nn.Module:
        return PredictorProjection(
            [dim, self.hidden, self.hidden, self.width],
            [self.width, self.hidden, self.width],
            for_head=for_head,
        )

    def targets(
        self,
        teacher: Network,
        student: Network,
        features: Features,
        crops_BCSS: Tensor,
        temperature: Tensor,
    ) -> Targets:
        return Targets({
            owner: _of(teacher if owner is None else teacher.heads[owner]).projector(pooled_BD)
            for owner, pooled_BD in pooled_by_owner(teacher, features).items()
        })  # fmt: skip

    def of_head(self, network: Network, head: AttachedHead, pooled_BD: Tensor) -> Tensor:
        own = _of(head)
        return cast(Tensor, own.predictor(own.projector(pooled_BD)))

    def of_base(self, network: Network, pooled_BD: Tensor) -> Tensor:
        return cast(Tensor, _of(network).projector(pooled_BD))

    def predict(self, network: Network, head: AttachedHead | None, embedding_BP: Tensor) -> Tensor:
        predictor = _of(network).predictor if head is None else _of(head).base_predictor
        assert predictor is not None
        return cast(Tensor, predictor(embedding_BP))


def _of(owner: Network | AttachedHead) -> PredictorProjection:
    return cast(PredictorProjection, owner.projection)
