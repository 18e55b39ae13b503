"""SimCLR: NT-Xent, which tells an image's other crop from all other crops of the batch.

Source: Chen et al., *A Simple Framework for Contrastive Learning of Visual Representations*, ICML
2020, arXiv 2002.05709, equation 1. The heterogeneous form is that of `two_embeddings.py`.
It learned faster than the others in short runs (results/README.md), and is therefore the default.

Shapes: B images, P width of the embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from headsearch.training.objectives.two_embeddings import TwoEmbeddings

TEMPERATURE = 0.1
"""What suits long runs best in the paper (figure 9); its small-data runs use 0.5."""


@dataclass(frozen=True)
class SimClr(TwoEmbeddings):
    """SimCLR in its heterogeneous form; published widths are 2048 (hidden) and 128."""

    width: int = 128

    def compare(self, prediction_BP: Tensor, target_BP: Tensor) -> Tensor:
        batch = len(prediction_BP)
        both_P = F.normalize(torch.cat([prediction_BP, target_BP]), dim=-1)  # 2B of them
        itself = torch.eye(2 * batch, dtype=torch.bool, device=both_P.device)
        logits = (both_P @ both_P.T / TEMPERATURE).masked_fill(itself, -torch.inf)
        other_crop = torch.arange(2 * batch, device=both_P.device).roll(batch)
        return F.cross_entropy(logits, other_crop)
