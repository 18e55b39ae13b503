"""SimCLR: the NT-Xent contrastive loss, in which all other crops of the batch are negatives.

The default objective: in short runs it learned faster than the others (results/README.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from headsearch.training.objectives.two_embeddings import TwoEmbeddings

# Shapes: B images, P width of the embeddings.

TEMPERATURE = 0.1
"""Best for long runs in the paper (figure 9); its runs on small data use 0.5."""


@dataclass(frozen=True)
class SimClr(TwoEmbeddings):
    """SimCLR in its heterogeneous form.

    Source: Chen et al., *A Simple Framework for Contrastive Learning of Visual Representations*,
    ICML 2020, https://arxiv.org/abs/2002.05709, equation 1.

    Formula. Of the 2B unit-norm embeddings z of a batch, i and j(i) are the two crops of an image:

        ℓ = mean over i of −log [exp(z_i·z_j(i) / τ) / Σ_{k≠i} exp(z_i·z_k / τ)],   τ = 0.1

    Shapes: `compare` takes two tensors (B, P), the embeddings of first and second crops.

    Where heads enter: in the heterogeneous term the embeddings of one side are a head's, detached
    (see `TwoEmbeddings`).

    Arguments are those of `TwoEmbeddings`. Published sizes: hidden 2048, width 128.
    """

    width: int = 128

    def compare(self, prediction_BP: Tensor, target_BP: Tensor) -> Tensor:
        batch = len(prediction_BP)
        both_P = F.normalize(torch.cat([prediction_BP, target_BP]), dim=-1)  # (2B, P)
        itself = torch.eye(2 * batch, dtype=torch.bool, device=both_P.device)
        logits = (both_P @ both_P.T / TEMPERATURE).masked_fill(itself, -torch.inf)
        # Row i is the first crop of image i for i < B and the second for i ≥ B.
        other_crop = torch.arange(2 * batch, device=both_P.device).roll(batch)
        return F.cross_entropy(logits, other_crop)
