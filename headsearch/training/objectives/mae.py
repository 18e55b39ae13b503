"""Masked modelling: predicts the pixels of masked patches, or masked tokens of texts.

In images this is SimMIM's form with MAE's target, in texts BERT's masked language modelling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headsearch.models.bases import BaseOutput, BasePlan
from headsearch.models.heads.padding import masked_mean as mean_of_valid
from headsearch.models.network import AttachedHead, Features, Network, tokens_of
from headsearch.training.objectives.layers import upcast
from headsearch.training.objectives.masks import block_masks, masked_mean
from headsearch.training.objectives.objective import (
    Objective,
    StepOutputs,
    TargetInputs,
    Targets,
)

# Shapes: 2B crops (M of them when masks are drawn), S image side, D feature width, H × W the grid
# of the last feature map, N = H · W patches, X pixel values of a patch.

MASK_RATIO = 0.6
"""SimMIM's default; its best range for large patches is 0.4 to 0.8 (table 1 of the paper)."""
BLOCK_AREA = (1 / 64, 1 / 16)
"""Smallest and largest area of a block, as a share of the grid."""
BLOCKS = 96
"""Blocks drawn per mask. They cover 3.9 % of the grid on average, so about 24 reach 0.6 of it."""
EPSILON = 1e-6
"""Added to the variance of a patch, as in MAE."""
TOKEN_RATIO = 0.3
"""The share of a text's places that are masked. BERT masks 0.15; Wettig et al. 2023 (arXiv
2202.08005) find up to 0.4 better. Masked tokens are never replaced by others."""


class MaeBaseProjection(nn.Module):
    """The base's decoder of pixels, and the shapes that heads adapt their own to."""

    def __init__(self, plan: BasePlan) -> None:
        super().__init__()
        self.dim, self.grid = plan.dim, plan.grid
        # Patches are rounded to whole pixels where the grid does not divide the image.
        sides = zip(plan.input_shape.tensor[1:], plan.grid, strict=True)
        self.patch = tuple(max(1, round(side / cells)) for side, cells in sides)
        self.values = plan.input_shape.channels * self.patch[0] * self.patch[1]
        self.decoder = nn.Linear(plan.dim, self.values)

    def mask(self, crops: int, generator: torch.Generator | None) -> Tensor:
        """The masks (M, H, W), bool, of so many crops."""
        rows, columns = self.grid
        count = round(MASK_RATIO * rows * columns)
        count_M = torch.full((crops,), count, device=self.decoder.weight.device)
        return block_masks(count_M, self.grid, generator, area=BLOCK_AREA, rectangles=BLOCKS)

    def targets(self, crops: Tensor) -> Tensor:
        """What is predicted of crops, (2B, N, X): the normalised pixels of patches."""
        return _normalised_patches(crops, self.grid, self.patch)

    def error(
        self, decoder: nn.Module, tokens_BND: Tensor, target: Tensor, mask_BHW: Tensor
    ) -> Tensor:
        """The mean squared error of what a decoder predicts at masked patches."""
        error_BN = (upcast(decoder(tokens_BND)) - target).square().mean(dim=-1)
        return masked_mean(error_BN, mask_BHW)


class TokenBaseProjection(nn.Module):
    """The base's classifier of masked tokens, with the methods of `MaeBaseProjection`."""

    def __init__(self, plan: BasePlan) -> None:
        super().__init__()
        self.dim, self.grid = plan.dim, plan.grid
        self.values = plan.input_shape.vocabulary
        self.decoder = nn.Linear(plan.dim, self.values)

    @property
    def count(self) -> int:
        """The number of places that are masked in each text, padding included."""
        return max(1, round(TOKEN_RATIO * self.grid[1]))

    def mask(self, crops: int, generator: torch.Generator | None) -> Tensor:
        """The masks (M, 1, L), bool, of so many texts."""
        shape = (crops, *self.grid)
        draws = torch.rand(shape, generator=generator, device=self.decoder.weight.device)
        return draws.argsort(dim=-1).argsort(dim=-1) < self.count

    def targets(self, crops: Tensor) -> Tensor:
        """What is predicted of views (2B, 2, L) of texts: token ids (2B, L), -1 on padding."""
        return crops[:, 0] if crops.ndim == 3 else crops

    def error(
        self, decoder: nn.Module, tokens_BND: Tensor, target: Tensor, mask_BHW: Tensor
    ) -> Tensor:
        """The mean cross-entropy at masked tokens; only these are classified.

        The number of places is the same for each text, so that no shape depends on the texts.
        """
        counted_Bk, places_Bk = mask_BHW.flatten(1).to(torch.uint8).topk(self.count, dim=1)
        places_BkD = places_Bk.unsqueeze(-1).expand(-1, -1, tokens_BND.shape[-1])
        logits_BkV = upcast(decoder(tokens_BND.gather(1, places_BkD)))
        ids_Bk = target.gather(1, places_Bk).clamp(min=0)
        error_Bk = F.cross_entropy(logits_BkV.flatten(0, 1), ids_Bk.flatten(), reduction="none")
        return masked_mean(error_Bk.view_as(ids_Bk), counted_Bk.unsqueeze(1))


class MaeHeadProjection(nn.Module):
    """A head's decoder, and the map from the base's tokens to the head's."""

    def __init__(self, dim: int, of_base: MaskedProjection) -> None:
        super().__init__()
        self.decoder = nn.Linear(dim, of_base.values)
        self.base_map = nn.Linear(of_base.dim, dim)


MaskedProjection: TypeAlias = MaeBaseProjection | TokenBaseProjection
"""The base's projection, of images and maps or of texts."""


@dataclass(frozen=True)
class Mae(Objective):
    """Masked modelling in its heterogeneous form.

    Sources: for the form, Xie et al., *SimMIM*, CVPR 2022, https://arxiv.org/abs/2111.09886: the
    base takes the whole grid, with mask tokens, and one linear layer decodes. For the target, He et
    al., *Masked Autoencoders Are Scalable Vision Learners*, CVPR 2022,
    https://arxiv.org/abs/2111.06377: pixels normalised per patch, and squared error. MAE's own
    encoder takes the visible patches only, which leaves no feature map for a head.

    Formula. x̂ are the pixels of a patch, normalised to mean 0 and variance 1; masked_mean is the
    mean over the masked patches of a crop, then over crops:

        ℓ_base = m_base = masked_mean of mean over X of (decoder(student base tokens) − x̂)²
        ℓ_h = the same with the tokens and the decoder of head h
        heterogeneous term = masked_mean of mean over D of
                             (map_h(student base tokens) − LayerNorm(teacher head tokens))²

    Shapes: crops (2B, C, S, S), tokens (2B, N, D), pixels of patches (2B, N, X), masks (2B, H, W).

    Where heads enter (our own form, after Li et al. 2025, https://arxiv.org/abs/2310.05108, and
    Baevski et al., *data2vec*, ICML 2022, https://arxiv.org/abs/2202.03555): at masked patches the
    base also predicts, through a linear map that the head owns, the tokens of the head's teacher
    for the same unmasked crop, after a LayerNorm without parameters. The pixel losses keep base
    and head from becoming constant.

    Of texts, masked tokens are predicted in place of pixels (Devlin et al., *BERT*, NAACL 2019,
    https://arxiv.org/abs/1810.04805), by the cross-entropy over the vocabulary; the heterogeneous
    term is the same.

    A head whose map is finer than the base's last map has its tokens averaged onto the last grid.

    No loss here trains a class token beyond what patches take from it. The base is therefore scored
    by the mean of its patch tokens, which is also how MAE pools its fine-tuned models by default.

    Args:
        clip_norm: maximum gradient norm of each parameter tensor.
    """

    clip_norm: float | None = 0.3

    def base_projection(self, plan: BasePlan) -> nn.Module:
        return (TokenBaseProjection if plan.input_shape.vocabulary else MaeBaseProjection)(plan)

    def head_projection(self, dim: int, of_base: nn.Module) -> nn.Module:
        return MaeHeadProjection(dim, cast(MaskedProjection, of_base))

    def mask(self, student: Network, crops: int, generator: torch.Generator | None) -> Tensor:
        return _projection_of_base(student).mask(crops, generator)

    def make_targets(self, inputs: TargetInputs) -> Targets:
        projection = _projection_of_base(inputs.student)
        targets: dict[str | None, Tensor] = {}
        for name in inputs.teacher.heads:
            tokens_BND = upcast(_tokens_on_last_grid(inputs.teacher, inputs.features, name))
            targets[name] = F.layer_norm(tokens_BND, tokens_BND.shape[-1:])
        targets[None] = projection.targets(inputs.crops_BCSS)
        return Targets(targets)

    def embedding_of_base(self, outputs: StepOutputs) -> Tensor:
        return outputs.features.base.tokens_BND

    def loss_toward_head(self, outputs: StepOutputs, name: str, embedding: Tensor) -> Tensor:
        predicted_BND = _projection_of_head(outputs.student.heads[name]).base_map(embedding)
        error_BND = (upcast(predicted_BND) - outputs.targets.by_owner[name]).square()
        return masked_mean(error_BND.mean(dim=-1), outputs.hidden(name))

    def own_loss_of_head(self, outputs: StepOutputs, name: str) -> Tensor:
        tokens_BND = _tokens_on_last_grid(outputs.student, outputs.features, name)
        decoder = _projection_of_head(outputs.student.heads[name]).decoder
        target = outputs.for_head(name, outputs.targets.by_owner[None])
        of_base = _projection_of_base(outputs.student)
        return of_base.error(decoder, tokens_BND, target, outputs.hidden(name))

    def own_loss_of_base(self, outputs: StepOutputs, embedding: Tensor) -> Tensor:
        own = _projection_of_base(outputs.student)
        target = outputs.targets.by_owner[None]
        return own.error(own.decoder, embedding, target, outputs.hidden())

    def summary_of_base(self, base: BaseOutput) -> Tensor:
        return mean_of_valid(base.tokens_BND, base.valid)

    def kept_of_base(self, outputs: StepOutputs) -> Tensor:
        return self.own_loss_of_base(outputs, self.embedding_of_base(outputs))


def _projection_of_base(network: Network) -> MaskedProjection:
    return cast(MaskedProjection, network.projection)


def _projection_of_head(head: AttachedHead) -> MaeHeadProjection:
    return cast(MaeHeadProjection, head.projection)


def _tokens_on_last_grid(network: Network, features: Features, name: str) -> Tensor:
    """A head's tokens (2B, N, D), averaged onto the grid of the base's last map if finer."""
    tokens_BND, grid = features.heads_BND[name], _projection_of_base(network).grid
    head_grid = features.base.maps_BDHW[network.heads[name].feature_index].shape[-2:]
    if tuple(head_grid) == grid:
        return tokens_BND
    map_BDHW = tokens_BND.transpose(1, 2).unflatten(2, head_grid)
    return tokens_of(F.adaptive_avg_pool2d(map_BDHW, grid))


def _normalised_patches(
    crops_BCSS: Tensor, grid: tuple[int, int], patch: tuple[int, ...]
) -> Tensor:
    """The pixels (2B, N, X) of each patch, normalised to mean 0 and variance 1.

    Crops that the grid does not divide are resized first.
    """
    size = (grid[0] * patch[0], grid[1] * patch[1])
    if crops_BCSS.shape[-2:] != size:
        crops_BCSS = F.interpolate(crops_BCSS, size=size, mode="bilinear", align_corners=False)
    pixels_BNX = F.unfold(crops_BCSS, patch, stride=patch).transpose(1, 2)
    variance_BN1, mean_BN1 = torch.var_mean(pixels_BNX, dim=-1, keepdim=True)
    return (pixels_BNX - mean_BN1) * (variance_BN1 + EPSILON).rsqrt()
