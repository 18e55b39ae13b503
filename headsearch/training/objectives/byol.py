"""BYOL: the student predicts the projection of a momentum teacher, without negatives.

Source: Grill et al., *Bootstrap Your Own Latent*, NeurIPS 2020, arXiv 2006.07733, equation 2. In
the heterogeneous form (`predicting.py`) the base predicts the projection of the head's teacher.

The loss is lowest, 0, at a collapse to a constant. What keeps training from it is the predictor and
the teacher's lag (section 3.2 there), not the loss: trust it only beside the effective rank.

Shapes: B images, P width of the embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from headsearch.training.objectives.predicting import Predicting


@dataclass(frozen=True)
class Byol(Predicting):
    """BYOL in its heterogeneous form; published widths are 4096 (hidden) and 256. The projector
    has the layers and the last norm of MoCo v3's, one more of each than published, for ViTs."""

    compares_images: ClassVar[bool] = False

    def compare(self, prediction_BP: Tensor, target_BP: Tensor) -> Tensor:
        return 2 - 2 * F.cosine_similarity(prediction_BP, target_BP, dim=-1).mean()
