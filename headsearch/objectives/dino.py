"""DINO: self-distillation over prototypes, with centring and temperatures.

Source: Caron et al., *Emerging Properties in Self-Supervised Vision Transformers*, ICCV 2021,
arXiv 2104.14294; the heterogeneous form from Li et al. 2025, arXiv 2310.05108: the target of the
base is the prototype distribution of the head's teacher. Base and heads have their own projectors
and centres and share the base's prototypes, which therefore belong to the base: in *joint* coupling
the heads' gradients reach them scaled by 1/K, in *observe* not at all.

Shapes: 2B crops, D width, Z bottleneck, P prototypes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headsearch.model import AttachedHead, Features, Network
from headsearch.objectives.objective import Objective, mlp, upcast
from headsearch.schedules import Moment, warm_up
from headsearch.scores.rung import BASE, Prototypes

STUDENT_TEMPERATURE = 0.1
TEACHER_TEMPERATURES = (0.04, 0.07)
TEMPERATURE_WARM_UP = 0.5
"""The share of the run in which the teacher's temperature rises: 50 of 100 published epochs."""
CENTRE_MOMENTUM = 0.9
PROTOTYPES_FROZEN = 0.03
"""The share of the run in which prototypes do not move: 3 of 100 published epochs."""


class DinoProjection(nn.Module):
    """A three-layer projector onto the unit sphere, and the centre of its teacher's logits."""

    centre: Tensor

    def __init__(self, dim: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.projector = mlp([dim, hidden, hidden, bottleneck], norm=False)
        self.register_buffer("centre", torch.zeros(prototypes))

    def forward(self, pooled_BD: Tensor) -> Tensor:
        return F.normalize(upcast(self.projector(pooled_BD)), dim=-1)


class DinoBaseProjection(DinoProjection):
    """The base's projection, which also holds the prototypes that all heads use."""

    def __init__(self, dim: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__(dim, hidden, bottleneck, prototypes)
        self.prototypes_PZ = nn.Parameter(torch.randn(prototypes, bottleneck))


@dataclass(frozen=True)
class Dino(Objective):
    """DINO in its heterogeneous form. `hidden`, `bottleneck` and `prototypes` are published as
    2048, 256 and 8192; the defaults suit short runs on small data."""

    hidden: int = 512
    bottleneck: int = 128
    prototypes: int = 1024
    clip_norm: float | None = 0.3
    has_prototypes: ClassVar[bool] = True

    def base_projection(self, dim: int) -> nn.Module:
        return DinoBaseProjection(dim, self.hidden, self.bottleneck, self.prototypes)

    def head_projection(self, dim: int) -> nn.Module:
        return DinoProjection(dim, self.hidden, self.bottleneck, self.prototypes)

    def targets(
        self, teacher: Network, student: Network, features: Features, moment: Moment
    ) -> dict[str | None, Tensor]:
        temperature = warm_up(*TEACHER_TEMPERATURES, moment.progress, TEMPERATURE_WARM_UP)
        prototypes_PZ = _unit_prototypes(teacher)
        owners: dict[str | None, tuple[nn.Module, nn.Module, Tensor]] = {
            None: (teacher.projection, student.projection, features.base.pooled_BD)
        }
        for name, head in teacher.heads.items():
            pooled = features.pooled_BD(name)
            owners[name] = (head.projection, student.heads[name].projection, pooled)
        targets = {}
        for owner, (of_teacher, of_student, pooled_BD) in owners.items():
            centre = cast(DinoProjection, of_student).centre
            logits_BP = upcast(of_teacher(pooled_BD) @ prototypes_PZ.T)
            targets[owner] = F.softmax((logits_BP - centre) / temperature, dim=-1)
            centre.lerp_(logits_BP.mean(dim=0), 1 - CENTRE_MOMENTUM)
        return targets

    def of_head(self, network: Network, head: AttachedHead, pooled_BD: Tensor) -> Tensor:
        prototypes_PZ = network.coupled(_unit_prototypes(network))
        return cast(Tensor, head.projection(pooled_BD)) @ prototypes_PZ.T

    def of_base(self, network: Network, pooled_BD: Tensor) -> Tensor:
        return cast(Tensor, network.projection(pooled_BD)) @ _unit_prototypes(network).T

    def toward(self, network: Network, head: AttachedHead | None, embedding_BP: Tensor) -> Tensor:
        return embedding_BP

    def compare(self, prediction_BP: Tensor, target_BP: Tensor) -> Tensor:
        log_probabilities_BP = F.log_softmax(prediction_BP / STUDENT_TEMPERATURE, dim=-1)
        return -(target_BP * log_probabilities_BP).sum(dim=-1).mean()

    def adjust_gradients(self, student: Network, moment: Moment) -> None:
        if moment.progress < PROTOTYPES_FROZEN:
            cast(DinoBaseProjection, student.projection).prototypes_PZ.grad = None

    def prototypes_of(self, network: Network) -> Prototypes:
        def logits(owner: str, pooled_BD: Tensor) -> Tensor:
            own = network if owner == BASE else network.heads[owner]
            return cast(Tensor, own.projection(pooled_BD)) @ _unit_prototypes(network).T

        return Prototypes(logits, temperature=TEACHER_TEMPERATURES[1])


def _unit_prototypes(network: Network) -> Tensor:
    return F.normalize(cast(DinoBaseProjection, network.projection).prototypes_PZ, dim=-1)
