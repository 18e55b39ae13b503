"""DINO: self-distillation over prototypes, with centring and sharpening of the targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headsearch.evaluation.scores import Prototypes
from headsearch.models.bases import BasePlan
from headsearch.models.network import BASE, AttachedHead, Network
from headsearch.training import distributed
from headsearch.training.objectives.across_views import AcrossViews, pooled_by_owner
from headsearch.training.objectives.layers import mlp, upcast
from headsearch.training.objectives.objective import StepOutputs, TargetInputs, Targets
from headsearch.training.schedules import StepPosition, warm_up

# Shapes: 2B crops, D feature width, Z bottleneck width, P prototypes.

STUDENT_TEMPERATURE = 0.1
TEACHER_TEMPERATURES = (0.04, 0.07)
"""The teacher's temperature at the start of its warm-up, and from the end of it."""
TEMPERATURE_WARM_UP = 0.5
"""The share of the run in which the teacher's temperature rises: 50 of 100 published epochs."""
CENTRE_MOMENTUM = 0.9
PROTOTYPES_FROZEN = 0.03
"""The share of the run in which prototypes are not updated: 3 of 100 published epochs."""


class DinoProjection(nn.Module):
    """A three-layer projector onto the unit sphere, and the centre of the teacher's logits."""

    centre: Tensor

    def __init__(self, dim: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.projector = mlp([dim, hidden, hidden, bottleneck], norm=False)
        self.register_buffer("centre", torch.zeros(prototypes))

    def forward(self, pooled_BD: Tensor) -> Tensor:
        return F.normalize(upcast(self.projector(pooled_BD)), dim=-1)


class DinoBaseProjection(DinoProjection):
    """The projection of the base, which also holds the prototypes that all heads use."""

    def __init__(self, dim: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__(dim, hidden, bottleneck, prototypes)
        self.prototypes_PZ = nn.Parameter(torch.randn(prototypes, bottleneck))


@dataclass(frozen=True)
class Dino(AcrossViews):
    """DINO in its heterogeneous form.

    Source: Caron et al., *Emerging Properties in Self-Supervised Vision Transformers*, ICCV 2021,
    https://arxiv.org/abs/2104.14294, equations 1, 2 and 4; the heterogeneous form is that of Li et
    al. 2025, https://arxiv.org/abs/2310.05108.

    Formula. A projector maps features to a unit vector z. The logits of P prototypes (unit vectors
    w_p) are z·w_p. With temperatures τ_s = 0.1 and τ_t = 0.04 → 0.07, and a centre c:

        target = softmax((logits_teacher − c) / τ_t)
        ℓ = −Σ_p target_p · log softmax(logits_student / τ_s)_p
        c ← 0.9 c + 0.1 · mean over the batch of logits_teacher

    ℓ is averaged over the images, and over both directions q ⇄ v.

    Shapes: pooled features (2B, D), unit vectors (2B, Z), logits and targets (2B, P).

    Where heads enter: the base's target is the prototype distribution of the head's teacher for the
    other crop, instead of the base's own. Base and heads have separate projectors and centres. They
    share the prototypes, which belong to the base: with coupling *joint* the heads' gradients reach
    them scaled by 1/K, with *observe* not at all.

    Local crops (multi-crop, section 3.1): with L of them besides the two crops, the base predicts
    each target from the other crop and from all local ones. ℓ is then the mean over 2 + 2L pairs,
    all weighted alike. Teacher and heads do not see local crops: many heads need a fixed grid.

    A collapse onto one prototype has the lowest loss. Two things prevent collapse: the centre
    subtracts what all images share, which counters a single prototype for all of them, and the
    teacher's low temperature sharpens targets, which counters uniform ones. The gate on prototype
    entropy (`evaluation/collapse.py`) flags what collapses nevertheless.

    Args:
        hidden: width of the projector's hidden layers; published as 2048.
        bottleneck: Z; published as 256.
        prototypes: P; published as 8192. The defaults of all three suit short runs on small data.
        clip_norm: maximum gradient norm of each parameter tensor.
    """

    hidden: int = 512
    bottleneck: int = 128
    prototypes: int = 1024
    clip_norm: float | None = 0.3
    has_prototypes: ClassVar[bool] = True
    compares_images: ClassVar[bool] = False
    takes_local_views: ClassVar[bool] = True

    def base_projection(self, plan: BasePlan) -> nn.Module:
        return DinoBaseProjection(plan.dim, self.hidden, self.bottleneck, self.prototypes)

    def head_projection(self, dim: int, of_base: nn.Module) -> nn.Module:
        return DinoProjection(dim, self.hidden, self.bottleneck, self.prototypes)

    def make_targets(self, inputs: TargetInputs) -> Targets:
        prototypes_PZ = unit_prototypes(inputs.teacher)
        targets = {}
        for owner, pooled_BD in pooled_by_owner(inputs.teacher, inputs.features).items():
            teacher_projection, student_projection = (
                network.projection if owner is None else network.heads[owner].projection
                for network in (inputs.teacher, inputs.student)
            )
            logits_BP = upcast(teacher_projection(pooled_BD) @ prototypes_PZ.T)
            # The student's centre is the one that is updated; the teacher copies its buffers.
            centre = cast(DinoProjection, student_projection).centre
            targets[owner] = F.softmax((logits_BP - centre) / inputs.temperature, dim=-1)
            update_centre(centre, logits_BP.mean(dim=0))
        return Targets(targets)

    def embed_base(self, network: Network, pooled_BD: Tensor) -> Tensor:
        return cast(Tensor, network.projection(pooled_BD)) @ unit_prototypes(network).T

    def embedding_of_base(self, outputs: StepOutputs) -> Tensor:
        """The base's logits (2B + LB, P) of the two crops of each image, then of the local ones."""
        pooled_BD = outputs.features.base.pooled_BD
        if outputs.local_MD is not None:
            pooled_BD = torch.cat([pooled_BD, outputs.local_MD])
        return self.embed_base(outputs.student, pooled_BD)

    def loss_both_ways(self, predictions_BP: Tensor, targets_BP: Tensor) -> Tensor:
        """The mean over all pairs of a target and another crop's prediction, local ones too."""
        whole_BP, local_MP = predictions_BP.tensor_split([len(targets_BP)])
        loss = super().loss_both_ways(whole_BP, targets_BP)
        if not len(local_MP):
            return loss
        # Cross-entropy is linear in the target: its mean over both targets is that to their mean.
        target_BP = upcast(targets_BP).view(2, -1, targets_BP.shape[1]).mean(dim=0)
        local_LBP = upcast(local_MP).view(-1, *target_BP.shape)
        of_local, count = cross_entropy(local_LBP, target_BP).mean(), len(local_LBP)
        return (loss + count * of_local) / (1 + count)

    def predict_from_head(self, network: Network, head: AttachedHead, pooled_BD: Tensor) -> Tensor:
        # The prototypes are the base's: scale or stop the gradient that a head sends into them.
        prototypes_PZ = network.coupled(unit_prototypes(network))
        return cast(Tensor, head.projection(pooled_BD)) @ prototypes_PZ.T

    def predict_from_base(
        self, network: Network, head: AttachedHead | None, embedding_BP: Tensor
    ) -> Tensor:
        # All owners share the prototypes, so the base's logits predict any head's target as is.
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
            owner_module = network if owner == BASE else network.heads[owner]
            return cast(Tensor, owner_module.projection(pooled_BD)) @ unit_prototypes(network).T

        return Prototypes(logits, temperature=TEACHER_TEMPERATURES[1])


def teacher_temperature(position: StepPosition) -> float:
    """The teacher's temperature, which rises over the first half of the run."""
    return warm_up(*TEACHER_TEMPERATURES, position.progress, TEMPERATURE_WARM_UP)


def cross_entropy(logits_P: Tensor, target_P: Tensor) -> Tensor:
    """−Σ target · log softmax(logits / 0.1) over the last dimension, (…, P) → (…)."""
    return -(target_P * F.log_softmax(logits_P / STUDENT_TEMPERATURE, dim=-1)).sum(dim=-1)


def unit_prototypes(network: Network) -> Tensor:
    """The prototypes (P, Z) as unit vectors; they belong to the base."""
    return F.normalize(cast(DinoBaseProjection, network.projection).prototypes_PZ, dim=-1)


def update_centre(centre_P: Tensor, mean_logits_P: Tensor) -> None:
    """Moves a centre in place toward the mean of the teacher's logits over all processes."""
    centre_P.lerp_(distributed.mean_over_processes(mean_logits_P), 1 - CENTRE_MOMENTUM)
