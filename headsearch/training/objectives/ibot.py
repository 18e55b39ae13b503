"""iBOT: DINO on class tokens plus self-distillation of masked patches; HSSL's published objective.

The only objective here whose heterogeneous form is published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headsearch.models.bases import BasePlan
from headsearch.models.network import Features, Network
from headsearch.training.distributed import mean_over_processes
from headsearch.training.objectives.dino import (
    Dino,
    DinoBaseProjection,
    cross_entropy,
    unit_prototypes,
    update_centre,
)
from headsearch.training.objectives.layers import upcast
from headsearch.training.objectives.masks import block_masks, masked_mean
from headsearch.training.objectives.objective import StepOutputs, TargetInputs, Targets

# Shapes: 2B crops (M of them when masks are drawn), N = H · W patches, Z bottleneck width, P
# prototypes.

MASKED_CROPS = 0.5
"""The probability that a crop is masked at all."""
MASK_RATIO, MASK_RATIO_SPREAD = 0.3, 0.2
"""The share of patches hidden in a masked crop: uniform in 0.3 ± 0.2."""
BLOCK_AREA = (0.08, 0.5)
"""Smallest and largest area of a block, as a share of the grid. The smallest is BEiT's 16 of 196
patches, the largest is the highest mask ratio."""


class IbotBaseProjection(DinoBaseProjection):
    """DINO's projection of the base, with a second centre for the teacher's logits of patches."""

    patch_centre: Tensor

    def __init__(
        self, dim: int, hidden: int, bottleneck: int, prototypes: int, grid: tuple[int, int]
    ) -> None:
        super().__init__(dim, hidden, bottleneck, prototypes)
        self.grid = grid
        self.register_buffer("patch_centre", torch.zeros(prototypes))


@dataclass(frozen=True)
class Ibot(Dino):
    """iBOT in its heterogeneous form, with the sizes of `Dino`.

    Source: Zhou et al., *iBOT: Image BERT Pre-Training with Online Tokenizer*, ICLR 2022,
    https://arxiv.org/abs/2111.07832; the heterogeneous form is that of Li et al. 2025,
    https://arxiv.org/abs/2310.05108.

    Formula. For crops q ≠ v, which the teacher sees whole and the student sees with masked patches,
    and the cross-entropy CE of `Dino`:

        ½ [CE(teacher head CLS_q, student base CLS_v) + CE(teacher head CLS_q, student head CLS_v)]
          + CE(teacher base patch, student base patch) over the masked patches of the same crop

    The patch term is averaged over the masked patches of a crop, then over crops.

    Shapes: pooled features (2B, D), patch tokens (2B, N, D), logits and targets of class tokens
    (2B, P) and of patches (2B, N, P), masks (2B, H, W).

    Where heads enter: the base's class token learns from the head's teacher, as in `Dino`. Its
    patches learn from the base's own teacher. Class tokens and patches share the base's projector
    and prototypes; their centres are separate.

    As in DINO, a collapse onto one prototype has the lowest loss; centring and sharpening
    prevent it.
    """

    def base_projection(self, plan: BasePlan) -> nn.Module:
        return IbotBaseProjection(
            plan.dim, self.hidden, self.bottleneck, self.prototypes, plan.grid
        )

    def mask(self, student: Network, crops: int, generator: torch.Generator | None) -> Tensor:
        grid = _projection_of_base(student).grid
        device = _projection_of_base(student).patch_centre.device
        masked_M, ratio_M = torch.rand((2, crops), generator=generator, device=device).unbind(0)
        ratio_M = MASK_RATIO + (2 * ratio_M - 1) * MASK_RATIO_SPREAD
        count_M = (ratio_M * (grid[0] * grid[1])).floor() * (masked_M < MASKED_CROPS)
        return block_masks(count_M, grid, generator, area=BLOCK_AREA)

    def make_targets(self, inputs: TargetInputs) -> Targets:
        class_targets = super().make_targets(inputs).by_owner
        logits_BNP = upcast(_patch_logits(inputs.teacher, inputs.features))
        centre = _projection_of_base(inputs.student).patch_centre
        patches_BNP = F.softmax((logits_BNP - centre) / inputs.temperature, dim=-1)
        update_centre(centre, _mean_over_patches(logits_BNP, inputs.features.base.valid))
        return Targets(class_targets, patches_BNP)

    def own_loss_of_base(self, outputs: StepOutputs, embedding: Tensor) -> Tensor:
        return super().own_loss_of_base(outputs, embedding) + self.kept_of_base(outputs)

    def kept_of_base(self, outputs: StepOutputs) -> Tensor:
        assert outputs.targets.patches is not None
        logits_BNP = upcast(_patch_logits(outputs.student, outputs.features))
        return masked_mean(cross_entropy(logits_BNP, outputs.targets.patches), outputs.hidden())


def _mean_over_patches(logits_BNP: Tensor, valid_BHW: Tensor | None) -> Tensor:
    """The mean (P,) over all patches that hold data.

    With padding it is that of all processes: their numbers of patches differ, and each counts once.
    """
    if valid_BHW is None:
        return logits_BNP.mean(dim=(0, 1))
    valid_BN1 = valid_BHW.flatten(1).unsqueeze(-1)
    sum_P = mean_over_processes(torch.where(valid_BN1, logits_BNP, 0.0).sum(dim=(0, 1)))
    return sum_P / mean_over_processes(valid_BN1.sum().to(sum_P.dtype)).clamp(min=1e-6)


def _projection_of_base(network: Network) -> IbotBaseProjection:
    return cast(IbotBaseProjection, network.projection)


def _patch_logits(network: Network, features: Features) -> Tensor:
    """The prototype logits (2B, N, P) of the base's patches."""
    embedding_BNZ = _projection_of_base(network)(features.base.tokens_BND)
    return cast(Tensor, embedding_BNZ @ unit_prototypes(network).T)
