"""VICReg: embeddings of two crops agree, vary over the batch, and their features do not correlate.

Source: Bardes, Ponce and LeCun, *VICReg: Variance-Invariance-Covariance Regularization for
Self-Supervised Learning*, ICLR 2022, arXiv 2105.04906, equations 1 to 6. As in the authors' code,
the hinge on the deviation is averaged over the two crops and the covariance summed; the sum of
equation 6 would halve the weight of the one against the other. The heterogeneous form is that of
`two_embeddings.py`; the variance and covariance of the head's side are constants there.

Shapes: B images, P width of the embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from headsearch.training.objectives.two_embeddings import TwoEmbeddings

INVARIANCE, VARIANCE, COVARIANCE = 25.0, 25.0, 1.0
EPSILON = 1e-4


@dataclass(frozen=True)
class VicReg(TwoEmbeddings):
    """VICReg in its heterogeneous form; published widths are 8192."""

    def compare(self, prediction_BP: Tensor, target_BP: Tensor) -> Tensor:
        both = (prediction_BP, target_BP)
        return (
            INVARIANCE * F.mse_loss(prediction_BP, target_BP)
            + VARIANCE * sum((_hinge(x) for x in both), start=prediction_BP.new_zeros(())) / 2
            + COVARIANCE * sum((_covariance(x) for x in both), start=prediction_BP.new_zeros(()))
        )


def _hinge(embedding_BP: Tensor) -> Tensor:
    """How far the deviations of the features fall short of 1."""
    return F.relu(1 - (embedding_BP.var(dim=0) + EPSILON).sqrt()).mean()


def _covariance(embedding_BP: Tensor) -> Tensor:
    """The sum of the squared covariances of different features, over their number."""
    batch, width = embedding_BP.shape
    centred_BP = embedding_BP - embedding_BP.mean(dim=0)
    covariance_PP = centred_BP.T @ centred_BP / (batch - 1)
    between = covariance_PP.square().sum() - torch.diagonal(covariance_PP).square().sum()
    return between / width
