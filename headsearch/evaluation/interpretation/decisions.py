"""Which decisions differ between two classifiers: error consistency, and images that flipped.

Dimensions: Q queries, C classes, S seeds.
"""

from __future__ import annotations

import torch
from torch import Tensor


def error_consistency(first_Q: Tensor, second_Q: Tensor) -> float:
    """Cohen's κ of being right (Geirhos et al. 2020, arXiv 2006.16736, eq. 1–3).

    How much more often two classifiers are right on the same images and wrong on the same images
    than independent ones of their accuracies. 1 for equal errors, 0 for independent ones. NaN if
    both are always right or always wrong.

    Args:
        first_Q, second_Q: bool, whether each is right on each image.
    """
    first, second = first_Q.double(), second_Q.double()
    observed = float((first == second).double().mean())
    p, q = float(first.mean()), float(second.mean())
    expected = p * q + (1 - p) * (1 - q)
    return (observed - expected) / (1 - expected) if expected < 1 else float("nan")


def accuracy_by_class(right_Q: Tensor, labels_Q: Tensor, classes: int) -> Tensor:
    """The share of right decisions among the images of each class: (C,); NaN without any."""
    counts = torch.bincount(labels_Q, minlength=classes).double()
    hits = torch.bincount(labels_Q, weights=right_Q.double(), minlength=classes)
    return hits / counts


def flipped(first_SQ: Tensor, second_SQ: Tensor) -> tuple[Tensor, Tensor]:
    """Images on which all seeds of one model are right and all of another wrong.

    Returns:
        Indices where the first alone is right, and where the second alone is, ascending.
    """
    won = first_SQ.all(0) & ~second_SQ.any(0)
    lost = second_SQ.all(0) & ~first_SQ.any(0)
    return won.nonzero().flatten(), lost.nonzero().flatten()
