"""VICReg: invariance between crops, variance over the batch, and decorrelated features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from headsearch.training.objectives.two_embeddings import TwoEmbeddings

# Shapes: B images, P width of the embeddings.

INVARIANCE, VARIANCE, COVARIANCE = 25.0, 25.0, 1.0
"""The weights λ, μ and ν of the paper."""
EPSILON = 1e-4
"""Added to a variance before its root, as in the paper."""


@dataclass(frozen=True)
class VicReg(TwoEmbeddings):
    """VICReg in its heterogeneous form.

    Source: Bardes, Ponce and LeCun, *VICReg: Variance-Invariance-Covariance Regularization for
    Self-Supervised Learning*, ICLR 2022, https://arxiv.org/abs/2105.04906, equations 1 to 6.

    Formula. Z and Z' are the embeddings of the two crops:

        ℓ = 25 · mean (Z − Z')² + 25 · ½ [v(Z) + v(Z')] + 1 · [c(Z) + c(Z')]
        v(Z) = mean over features of max(0, 1 − √(variance over the batch + ε))
        c(Z) = 1/P · Σ_{i≠j} Cov(Z)_ij²

    As in the authors' code, v is averaged over the two crops and c is summed. Equation 6 sums both,
    which would halve the weight of c relative to v.

    Shapes: `compare` takes two tensors (B, P), the embeddings of first and second crops.

    Where heads enter: in the heterogeneous term the embeddings of one side are a head's, detached
    (see `TwoEmbeddings`), so that v and c of the head's side are constants.

    Arguments are those of `TwoEmbeddings`. Published sizes: hidden 8192, width 8192.
    """

    def compare(self, prediction_BP: Tensor, target_BP: Tensor) -> Tensor:
        both = (prediction_BP, target_BP)
        return (
            INVARIANCE * F.mse_loss(prediction_BP, target_BP)
            + VARIANCE * sum((_hinge(x) for x in both), start=prediction_BP.new_zeros(())) / 2
            + COVARIANCE * sum((_covariance(x) for x in both), start=prediction_BP.new_zeros(()))
        )


def _hinge(embedding_BP: Tensor) -> Tensor:
    """v(Z): how far the standard deviations of the features are below 1, on average."""
    return F.relu(1 - (embedding_BP.var(dim=0) + EPSILON).sqrt()).mean()


def _covariance(embedding_BP: Tensor) -> Tensor:
    """c(Z): the sum of the squared covariances of different features, divided by P."""
    batch, width = embedding_BP.shape
    centred_BP = embedding_BP - embedding_BP.mean(dim=0)
    covariance_PP = centred_BP.T @ centred_BP / (batch - 1)
    off_diagonal = covariance_PP.square().sum() - torch.diagonal(covariance_PP).square().sum()
    return off_diagonal / width
