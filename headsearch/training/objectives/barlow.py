"""Barlow Twins: pulls the cross-correlation of two crops' embeddings toward the identity matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headsearch.training.objectives.two_embeddings import TwoEmbeddings

# Shapes: B images, P width of the embeddings.

REDUNDANCY_WEIGHT = 5e-3
"""λ of the paper."""
EPSILON = 1e-5
"""Added to a variance, as in the batch norm of the authors' code."""


@dataclass(frozen=True)
class Barlow(TwoEmbeddings):
    """Barlow Twins in its heterogeneous form.

    Source: Zbontar et al., *Barlow Twins: Self-Supervised Learning via Redundancy Reduction*, ICML
    2021, https://arxiv.org/abs/2103.03230, equations 1 and 2.

    Formula. C is the (P, P) cross-correlation, over the batch, of the embeddings of the two crops:

        ℓ = Σ_i (1 − C_ii)² + λ Σ_i Σ_{j≠i} C_ij²,   λ = 0.005

    Shapes: `compare` takes two tensors (B, P), the embeddings of first and second crops.

    Where heads enter: in the heterogeneous term the embeddings of one side are a head's, detached
    (see `TwoEmbeddings`).

    Arguments are those of `TwoEmbeddings`. Published sizes: hidden 8192, width 8192.
    """

    def compare(self, prediction_BP: Tensor, target_BP: Tensor) -> Tensor:
        correlation_PP = _standardised(prediction_BP).T @ _standardised(target_BP)
        correlation_PP = correlation_PP / len(prediction_BP)
        invariance = (torch.diagonal(correlation_PP) - 1).square().sum()
        redundancy = correlation_PP.square().sum() - torch.diagonal(correlation_PP).square().sum()
        return invariance + REDUNDANCY_WEIGHT * redundancy


def _standardised(embedding_BP: Tensor) -> Tensor:
    """Each feature with mean 0 and deviation 1 over the batch."""
    variance_P, mean_P = torch.var_mean(embedding_BP, dim=0, correction=0)
    return (embedding_BP - mean_P) * (variance_P + EPSILON).rsqrt()
