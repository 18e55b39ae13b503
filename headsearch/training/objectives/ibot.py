"""iBOT: DINO, and the same self-distillation on masked patches. HSSL's published objective.

Source: Zhou et al., *iBOT: Image BERT Pre-Training with Online Tokenizer*, ICLR 2022, arXiv
2111.07832; the heterogeneous form from Li et al. 2025, arXiv 2310.05108. For crops q ≠ v, of which
the student sees masked versions and the teacher the whole ones:

    ½ [CE(teacher head CLS_q, student base CLS_v) + CE(teacher head CLS_q, student head CLS_v)]
      + CE(teacher base patch, student base patch) over the masked patches of the same crop

The base's target is the head's (`dino.py`), but its patches learn from its own teacher. Class
tokens and patches share the base's projector and prototypes; their centres are separate. As in
DINO, a collapse onto one prototype has the lowest loss, and centring and sharpening prevent it.

Shapes: 2B crops, N = H · W patches, P prototypes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headsearch.models.bases import BasePlan
from headsearch.models.network import Features, Network
from headsearch.training import distributed
from headsearch.training.objectives.dino import (
    CENTRE_MOMENTUM,
    Dino,
    DinoBaseProjection,
    cross_entropy,
    unit_prototypes,
)
from headsearch.training.objectives.layers import upcast
from headsearch.training.objectives.masks import block_masks, masked_mean
from headsearch.training.objectives.objective import StepOutputs, Targets

MASKED_CROPS = 0.5
"""The share of crops that are masked at all."""
MASK_RATIO, MASK_RATIO_SPREAD = 0.3, 0.2
"""The share of patches masked in those: uniform in 0.3 ± 0.2."""
BLOCK_AREA = (0.08, 0.5)
"""The area of a block: BEiT's least is 16 of 196 patches; the most is the highest ratio."""


class IbotBaseProjection(DinoBaseProjection):
    """DINO's of the base, and the centre of the teacher's logits of patches."""

    patch_centre: Tensor

    def __init__(
        self, dim: int, hidden: int, bottleneck: int, prototypes: int, grid: tuple[int, int]
    ) -> None:
        super().__init__(dim, hidden, bottleneck, prototypes)
        self.grid = grid
        self.register_buffer("patch_centre", torch.zeros(prototypes))


@dataclass(frozen=True)
class Ibot(Dino):
    """iBOT in its heterogeneous form, with the sizes of `Dino`."""

    def base_projection(self, plan: BasePlan) -> nn.Module:
        return IbotBaseProjection(
            plan.dim, self.hidden, self.bottleneck, self.prototypes, plan.grid
        )

    def mask(self, student: Network, crops: int, generator: torch.Generator | None) -> Tensor:
        grid = _projection(student).grid
        device = _projection(student).patch_centre.device
        masked_M, ratio_M = torch.rand((2, crops), generator=generator, device=device).unbind(0)
        ratio_M = MASK_RATIO + (2 * ratio_M - 1) * MASK_RATIO_SPREAD
        count_M = (ratio_M * (grid[0] * grid[1])).floor() * (masked_M < MASKED_CROPS)
        return block_masks(count_M, grid, generator, area=BLOCK_AREA)

    def targets(
        self,
        teacher: Network,
        student: Network,
        features: Features,
        crops_BCSS: Tensor,
        temperature: Tensor,
    ) -> Targets:
        of_images = super().targets(teacher, student, features, crops_BCSS, temperature).of
        logits_BNP = upcast(_patch_logits(teacher, features))
        centre = _projection(student).patch_centre
        patches_BNP = F.softmax((logits_BNP - centre) / temperature, dim=-1)
        centre.lerp_(
            distributed.mean_over_processes(logits_BNP.mean(dim=(0, 1))), 1 - CENTRE_MOMENTUM
        )
        return Targets(of_images, patches_BNP)

    def own_of_base(self, seen: StepOutputs, embedding: Tensor) -> Tensor:
        return super().own_of_base(seen, embedding) + self.kept_of_base(seen)

    def kept_of_base(self, seen: StepOutputs) -> Tensor:
        assert seen.mask_BHW is not None
        assert seen.targets.patches is not None
        logits_BNP = upcast(_patch_logits(seen.student, seen.features))
        return masked_mean(cross_entropy(logits_BNP, seen.targets.patches), seen.mask_BHW)


def _projection(network: Network) -> IbotBaseProjection:
    return cast(IbotBaseProjection, network.projection)


def _patch_logits(network: Network, features: Features) -> Tensor:
    """The logits (2B, N, P) of the base's patches."""
    embedding_BNZ = _projection(network)(features.base.tokens_BND)
    return cast(Tensor, embedding_BNZ @ unit_prototypes(network).T)
