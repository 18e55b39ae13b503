"""Weighted k-NN classification of frozen features.

Dimensions: N images of the bank, M queries, D features, C classes, K neighbours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 1024
"""Queries that are compared with the bank at a time; limits the memory to CHUNK·N."""


def knn_predict(
    bank_ND: Tensor,
    bank_labels_N: Tensor,
    queries_MD: Tensor,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    """The classes of the queries by a weighted k-NN on the bank: (M,) int64.

    The k most similar images of the bank (cosine; all images if the bank is smaller than k) vote
    with weight exp(similarity / temperature): Wu et al. 2018, arXiv 1805.01978, section 3.4. If
    classes have equal votes, the first one wins.

    Args:
        bank_ND, queries_MD: features, not normalised.
        bank_labels_N: int64, 0 to classes − 1.
        classes: C.
        k: neighbours.
        temperature: above 0.

    Raises:
        ValueError: `k` below 1 or `temperature` not above 0.
    """
    if k < 1:
        raise ValueError(f"Neighbours must be at least 1, but got {k=}.")
    if not temperature > 0:
        raise ValueError(f"Temperature must be above 0, but got {temperature=}.")
    bank_ND = F.normalize(bank_ND.float(), dim=1)
    k = min(k, len(bank_ND))
    predictions = []
    for queries in torch.split(queries_MD, CHUNK):
        similarity_MN = F.normalize(queries.float(), dim=1) @ bank_ND.T
        similarity_MK, nearest_MK = similarity_MN.topk(k, dim=1)
        votes_MC = similarity_MN.new_zeros(len(queries), classes)
        votes_MC.scatter_add_(1, bank_labels_N[nearest_MK], (similarity_MK / temperature).exp())
        predictions.append(votes_MC.argmax(1))
    return torch.cat(predictions)


def accuracy(predictions_M: Tensor, labels_M: Tensor) -> float:
    """The share of correct predictions, 0 to 1; NaN without predictions."""
    return float((predictions_M == labels_M).double().mean())
