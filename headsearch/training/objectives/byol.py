"""BYOL: the student predicts the projection of an EMA teacher, without negatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from headsearch.training.objectives.predicting import Predicting

# Shapes: B images, P width of the embeddings.


@dataclass(frozen=True)
class Byol(Predicting):
    """BYOL in its heterogeneous form.

    Source: Grill et al., *Bootstrap Your Own Latent*, NeurIPS 2020,
    https://arxiv.org/abs/2006.07733, equation 2.

    Formula. p is the student's prediction from one crop, t the teacher's projection of the other:

        ℓ = 2 − 2 · mean over images of cos(p, t)

    Shapes: `compare` takes two tensors (B, P), predictions and targets.

    Where heads enter: the base predicts the projection of the head's teacher (see `Predicting`).

    The projector is MoCo v3's, made for ViTs: it has one layer and one norm more than BYOL
    published.

    The loss is lowest, 0, at a collapse to a constant. The predictor and the slow teacher keep
    training away from it (section 3.2 of the paper), not the loss. Read the loss only together with
    the effective rank.

    Arguments are those of `Predicting`. Published sizes: hidden 4096, width 256.
    """

    compares_images: ClassVar[bool] = False

    def compare(self, prediction_BP: Tensor, target_BP: Tensor) -> Tensor:
        return 2 - 2 * F.cosine_similarity(prediction_BP, target_BP, dim=-1).mean()
