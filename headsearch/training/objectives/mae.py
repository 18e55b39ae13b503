"""Masked image modelling: the pixels of masked patches, predicted by a linear layer.

Sources: Xie et al., *SimMIM*, CVPR 2022, arXiv 2111.09886, for the form: the base takes the whole
grid, with mask tokens, and one linear layer decodes; He et al., *Masked Autoencoders Are Scalable
Vision Learners*, CVPR 2022, arXiv 2111.06377, for the target: pixels normalised patch by patch, and
their squared error. MAE's own encoder takes the visible patches alone, which leaves no map for a
head to take. The heterogeneous form is ours, after Li et al. 2025, arXiv 2310.05108, and Baevski et
al., *data2vec*, ICML 2022, arXiv 2202.03555: at masked patches the base also predicts what the
head's teacher makes of the whole crop, its tokens after a LayerNorm without parameters, through a
linear map that the head owns. Pixels hold base and head away from a constant.

A head where the map is finer than the last one has its tokens averaged onto the last one's grid.
Nothing here trains a class token, beyond what patches take from it, so the base is scored by the
mean of its patch tokens, as MAE's fine-tuned models are pooled by default.

Shapes: 2B crops, S image side, D width, H × W the last map's grid, N = H · W patches, X values of
the pixels of a patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headsearch.models.bases import BaseOutput, BasePlan
from headsearch.models.network import AttachedHead, Features, Network, tokens_of
from headsearch.training.objectives.layers import upcast
from headsearch.training.objectives.masks import block_masks, masked_mean
from headsearch.training.objectives.objective import Objective, StepOutputs, Targets

MASK_RATIO = 0.6
"""SimMIM's default, and its best range is 0.4 to 0.8 for its large patches (table 1 there)."""
BLOCK_AREA = (1 / 64, 1 / 16)
BLOCKS = 96
"""Blocks of 3.9 % of the map on average cover 0.6 of it after 24 or so."""
EPSILON = 1e-6
"""Added to the variance of a patch, as in MAE."""


class MaeBaseProjection(nn.Module):
    """The base's decoder of pixels, and the shapes that heads fit theirs to."""

    def __init__(self, plan: BasePlan) -> None:
        super().__init__()
        self.dim, self.grid = plan.dim, plan.grid
        # A patch is rounded to whole pixels where the grid does not divide the image.
        self.patch = tuple(max(1, round(plan.image_size / cells)) for cells in plan.grid)
        self.values = 3 * self.patch[0] * self.patch[1]
        self.decoder = nn.Linear(plan.dim, self.values)


class MaeHeadProjection(nn.Module):
    """A head's decoder of pixels, and the map of the base's tokens toward the head's."""

    def __init__(self, dim: int, of_base: MaeBaseProjection) -> None:
        super().__init__()
        self.decoder = nn.Linear(dim, of_base.values)
        self.base_map = nn.Linear(of_base.dim, dim)


@dataclass(frozen=True)
class Mae(Objective):
    """Masked image modelling in its heterogeneous form."""

    clip_norm: float | None = 0.3

    def base_projection(self, plan: BasePlan) -> nn.Module:
        return MaeBaseProjection(plan)

    def head_projection(self, dim: int, of_base: nn.Module) -> nn.Module:
        return MaeHeadProjection(dim, cast(MaeBaseProjection, of_base))

    def mask(self, student: Network, crops: int, generator: torch.Generator | None) -> Tensor:
        own = _of_base(student)
        count = round(MASK_RATIO * own.grid[0] * own.grid[1])
        count_M = torch.full((crops,), count, device=own.decoder.weight.device)
        return block_masks(count_M, own.grid, generator, area=BLOCK_AREA, rectangles=BLOCKS)

    def targets(
        self,
        teacher: Network,
        student: Network,
        features: Features,
        crops_BCSS: Tensor,
        temperature: Tensor,
    ) -> Targets:
        own = _of_base(student)
        targets: dict[str | None, Tensor] = {}
        for name in teacher.heads:
            tokens_BND = upcast(_on_last_grid(teacher, features, name))
            targets[name] = F.layer_norm(tokens_BND, tokens_BND.shape[-1:])
        targets[None] = _normalised_patches(crops_BCSS, own.grid, own.patch)
        return Targets(targets)

    def embedding_of_base(self, seen: StepOutputs) -> Tensor:
        return seen.features.base.tokens_BND

    def toward(self, seen: StepOutputs, name: str, embedding: Tensor) -> Tensor:
        predicted_BND = _of_head(seen.student.heads[name]).base_map(embedding)
        return _masked_error(predicted_BND, seen.targets.of[name], seen, name)

    def own_of_head(self, seen: StepOutputs, name: str) -> Tensor:
        tokens_BND = _on_last_grid(seen.student, seen.features, name)
        predicted_BNX = _of_head(seen.student.heads[name]).decoder(tokens_BND)
        return _masked_error(predicted_BNX, seen.by(name, _pixels(seen)), seen, name)

    def own_of_base(self, seen: StepOutputs, embedding: Tensor) -> Tensor:
        predicted_BNX = _of_base(seen.student).decoder(embedding)
        return _masked_error(predicted_BNX, _pixels(seen), seen)

    def summary_of_base(self, base: BaseOutput) -> Tensor:
        return base.tokens_BND.mean(dim=1)

    def kept_of_base(self, seen: StepOutputs) -> Tensor:
        return self.own_of_base(seen, self.embedding_of_base(seen))


def _of_base(network: Network) -> MaeBaseProjection:
    return cast(MaeBaseProjection, network.projection)


def _of_head(head: AttachedHead) -> MaeHeadProjection:
    return cast(MaeHeadProjection, head.projection)


def _pixels(seen: StepOutputs) -> Tensor:
    """The normalised pixels (2B, N, X) of all patches."""
    return seen.targets.of[None]


def _masked_error(
    predicted_BNX: Tensor, target_BNX: Tensor, seen: StepOutputs, head: str | None = None
) -> Tensor:
    """The squared error where patches are masked, of the crops that a head sees, or of all."""
    assert seen.mask_BHW is not None
    mask_BHW = seen.mask_BHW if head is None else seen.by(head, seen.mask_BHW)
    error_BN = (upcast(predicted_BNX) - target_BNX).square().mean(dim=-1)
    return masked_mean(error_BN, mask_BHW)


def _on_last_grid(network: Network, features: Features, name: str) -> Tensor:
    """A head's tokens (2B, N, D) on the grid of the last map."""
    tokens_BND, grid = features.heads_BND[name], _of_base(network).grid
    own_grid = features.base.maps_BDHW[network.heads[name].feature_index].shape[-2:]
    if tuple(own_grid) == grid:
        return tokens_BND
    map_BDHW = tokens_BND.transpose(1, 2).unflatten(2, own_grid)
    return tokens_of(F.adaptive_avg_pool2d(map_BDHW, grid))


def _normalised_patches(
    crops_BCSS: Tensor, grid: tuple[int, int], patch: tuple[int, ...]
) -> Tensor:
    """The pixels (2B, N, X) of each patch, less their mean, over their deviation."""
    size = (grid[0] * patch[0], grid[1] * patch[1])
    if crops_BCSS.shape[-2:] != size:
        crops_BCSS = F.interpolate(crops_BCSS, size=size, mode="bilinear", align_corners=False)
    pixels_BNX = F.unfold(crops_BCSS, patch, stride=patch).transpose(1, 2)
    variance_BN1, mean_BN1 = torch.var_mean(pixels_BNX, dim=-1, keepdim=True)
    return (pixels_BNX - mean_BN1) * (variance_BN1 + EPSILON).rsqrt()
