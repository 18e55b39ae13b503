"""DINO: self-distillation over prototypes, with centring and temperatures.

A constant output is no target that lasts: the centre takes it away (one prototype for all images)
and the low temperature of the teacher sharpens it (all prototypes alike). The loss itself is lowest
at a collapse onto one prototype, so only these two, and the gate on prototype entropy, prevent it.

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

from headsearch.evaluation.scores import Prototypes
from headsearch.models.bases import BasePlan
from headsearch.models.network import BASE, AttachedHead, Features, Network
from headsearch.training import distributed
from headsearch.training.objectives.across_views import AcrossViews, pooled_by_owner
from headsearch.training.objectives.layers import mlp, upcast
from headsearch.training.objectives.objective import Targets
from headsearch.training.schedules import StepPosition, warm_up

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
class Dino(AcrossViews):
    """DINO in its heterogeneous form. `hidden`, `bottleneck` and `prototypes` are published as
    2048, 256 and 8192; the defaults suit short runs on small data."""

    hidden: int = 512
    bottleneck: int = 128
    prototypes: int = 1024
    clip_norm: float | None = 0.3
    has_prototypes: ClassVar[bool] = True
    compares_images: ClassVar[bool] = False

    def base_projection(self, plan: BasePlan) -> nn.Module:
        return DinoBaseProjection(plan.dim, self.hidden, self.bottleneck, self.prototypes)

    def head_projection(self, dim: int, of_base: nn.Module) -> nn.Module:
        return DinoProjection(dim, self.hidden, self.bottleneck, self.prototypes)

    def targets(
        self,
        teacher: Network,
        student: Network,
        features: Features,
        crops_BCSS: Tensor,
        temperature: Tensor,
    ) -> Targets:
        prototypes_PZ = unit_prototypes(teacher)
        targets = {}
        for owner, pooled_BD in pooled_by_owner(teacher, features).items():
            projection_of_teacher, projection_of_student = (
                network.projection if owner is None else network.heads[owner].projection
                for network in (teacher, student)
            )
            logits_BP = upcast(projection_of_teacher(pooled_BD) @ prototypes_PZ.T)
            centre = cast(DinoProjection, projection_of_student).centre
            targets[owner] = F.softmax((logits_BP - centre) / temperature, dim=-1)
            centre.lerp_(
                distributed.mean_over_processes(logits_BP.mean(dim=0)), 1 - CENTRE_MOMENTUM
            )
        return Targets(targets)

    def of_head(self, network: Network, head: AttachedHead, pooled_BD: Tensor) -> Tensor:
        prototypes_PZ = network.coupled(unit_prototypes(network))
        return cast(Tensor, head.projection(pooled_BD)) @ prototypes_PZ.T

    def of_base(self, network: Network, pooled_BD: Tensor) -> Tensor:
        return cast(Tensor, network.projection(pooled_BD)) @ unit_prototypes(network).T

    def predict(self, network: Network, head: AttachedHead | None, embedding_BP: Tensor) -> Tensor:
        return embedding_BP

    def compare(self, prediction_BP: Tensor, target_BP: Tensor) -> Tensor:
        return cross_entropy(prediction_BP, target_BP).mean()

    def temperature(self, position: StepPosition) -> float:
        return teacher_temperature(position)

    def adjust_gradients(self, student: Network, position: StepPosition) -> None:
        if position.progress < PROTOTYPES_FROZEN:
            cast(DinoBaseProjection, student.projection).prototypes_PZ.grad = None

    def prototypes_of(self, network: Network) -> Prototypes:
        def logits(owner: str, pooled_BD: Tensor) -> Tensor:
            own = network if owner == BASE else network.heads[owner]
            return cast(Tensor, own.projection(pooled_BD)) @ unit_prototypes(network).T

        return Prototypes(logits, temperature=TEACHER_TEMPERATURES[1])


def teacher_temperature(position: StepPosition) -> float:
    """The temperature of the teacher, which rises over the first half of the run."""
    return warm_up(*TEACHER_TEMPERATURES, position.progress, TEMPERATURE_WARM_UP)


def cross_entropy(logits_P: Tensor, target_P: Tensor) -> Tensor:
    """−Σ target · log softmax(logits / 0.1) over the last dimension."""
    return -(target_P * F.log_softmax(logits_P / STUDENT_TEMPERATURE, dim=-1)).sum(dim=-1)


def unit_prototypes(network: Network) -> Tensor:
    """The directions (P, Z) of the prototypes, which belong to the base."""
    return F.normalize(cast(DinoBaseProjection, network.projection).prototypes_PZ, dim=-1)
