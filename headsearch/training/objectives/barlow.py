"""Barlow Twins: the cross-correlation of two crops' embeddings is drawn toward the identity.

Source: Zbontar et al., *Barlow Twins: Self-Supervised Learning via Redundancy Reduction*, ICML
2021, arXiv 2103.03230, equation 1. The heterogeneous form is that of `two_embeddings.py`.

Shapes: B images, P width of the embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headsearch.training.objectives.two_embeddings import TwoEmbeddings

REDUNDANCY_WEIGHT = 5e-3
EPSILON = 1e-5
"""Added to a variance; as in the batch norm of the authors' code."""


@dataclass(frozen=True)
class Barlow(TwoEmbeddings):
    """Barlow Twins in its heterogeneous form; published widths are 8192."""

    def compare(self, prediction_BP: Tensor, target_BP: Tensor) -> Tensor:
        correlation_PP = _standard(prediction_BP).T @ _standard(target_BP) / len(prediction_BP)
        invariance = (torch.diagonal(correlation_PP) - 1).square().sum()
        redundancy = correlation_PP.square().sum() - torch.diagonal(correlation_PP).square().sum()
        return invariance + REDUNDANCY_WEIGHT * redundancy


def _standard(embedding_BP: Tensor) -> Tensor:
    """Each feature less its mean over the batch, over its deviation."""
    variance_P, mean_P = torch.var_mean(embedding_BP, dim=0, correction=0)
    return (embedding_BP - mean_P) * (variance_P + EPSILON).rsqrt()
