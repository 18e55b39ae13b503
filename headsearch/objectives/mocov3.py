"""MoCo v3: InfoNCE between a student's queries and a momentum teacher's keys, in the batch.

Source: Chen, Xie and He, *An Empirical Study of Training Self-Supervised Vision Transformers*,
ICCV 2021, arXiv 2104.02057. The heterogeneous form is ours, after Li et al. 2025, arXiv 2310.05108:
the base's query is contrasted with the keys of the head's teacher. Each head owns a predictor of
its own for the base's query, since the keys of two heads live in spaces that nothing aligns.

It learned faster than DINO in a short run (results/README.md), and is therefore the default.

Shapes: B images, P width of the contrasted embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headsearch.model import AttachedHead, Features, Network
from headsearch.objectives.objective import Objective, mlp
from headsearch.schedules import Moment

TEMPERATURE = 0.2


class MocoProjection(nn.Module):
    """Projector and predictor; a head's also holds the predictor of the base's query toward it."""

    def __init__(self, dim: int, hidden: int, width: int, *, for_head: bool) -> None:
        super().__init__()
        self.projector = mlp([dim, hidden, hidden, width], norm=True, last_norm=True)
        self.predictor = mlp([width, hidden, width], norm=True)
        self.base_predictor = mlp([width, hidden, width], norm=True) if for_head else None


@dataclass(frozen=True)
class MocoV3(Objective):
    """MoCo v3 in its heterogeneous form; published widths are 4096 (hidden) and 256."""

    hidden: int = 512
    width: int = 128
    clip_norm: float | None = 0.3

    def base_projection(self, dim: int) -> nn.Module:
        return MocoProjection(dim, self.hidden, self.width, for_head=False)

    def head_projection(self, dim: int) -> nn.Module:
        return MocoProjection(dim, self.hidden, self.width, for_head=True)

    def targets(
        self, teacher: Network, student: Network, features: Features, moment: Moment
    ) -> dict[str | None, Tensor]:
        targets: dict[str | None, Tensor] = {
            None: _projection(teacher).projector(features.base.pooled_BD)
        }
        for name, head in teacher.heads.items():
            targets[name] = _projection(head).projector(features.pooled_BD(name))
        return targets

    def of_head(self, network: Network, head: AttachedHead, pooled_BD: Tensor) -> Tensor:
        own = _projection(head)
        return cast(Tensor, own.predictor(own.projector(pooled_BD)))

    def of_base(self, network: Network, pooled_BD: Tensor) -> Tensor:
        return cast(Tensor, _projection(network).projector(pooled_BD))

    def toward(self, network: Network, head: AttachedHead | None, embedding_BP: Tensor) -> Tensor:
        own = _projection(network)
        predictor = own.predictor if head is None else _projection(head).base_predictor
        assert predictor is not None
        return cast(Tensor, predictor(embedding_BP))

    def compare(self, prediction_BP: Tensor, target_BP: Tensor) -> Tensor:
        queries_BP = F.normalize(prediction_BP, dim=-1)
        keys_BP = F.normalize(target_BP, dim=-1)
        logits_BB = queries_BP @ keys_BP.T / TEMPERATURE
        own = torch.arange(len(logits_BB), device=logits_BB.device)
        return F.cross_entropy(logits_BB, own) * (2 * TEMPERATURE)


def _projection(owner: Network | AttachedHead) -> MocoProjection:
    return cast(MocoProjection, owner.projection)
