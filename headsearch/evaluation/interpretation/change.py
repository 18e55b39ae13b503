"""Where a base changed: debiased CKA between the blocks of two bases, from their Gram matrices.

Dimensions: N images (the same for both bases), A and B blocks of the two bases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from headsearch.evaluation.jackknife import jackknife_at_once
from headsearch.evaluation.similarity import cka_of_grams, cka_of_subsets


def cka_matrix(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Debiased CKA of every block of one base with every block of another: (A, B) float64.

    Args:
        first, second: a Gram matrix (N, N) of each block; see `similarity.gram`.
    """
    return torch.stack([torch.stack([cka_of_grams(a, b) for b in second]) for a in first])


def cka_by_block(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Debiased CKA of every block with the block of the same depth of another base: (A,)."""
    return torch.stack([cka_of_grams(a, b) for a, b in zip(first, second, strict=True)])


def error_of_change(changed: Tensor, plain: Tensor, other: Tensor, groups: int = 20) -> float:
    """By how much a change may be off, because the images are a sample: half of a 95 % interval.

    The change is CKA(plain, other) − CKA(changed, other) of one block. Its interval is a jackknife
    over images of the difference, as both terms share the images.

    Args:
        changed, plain: Gram matrices (N, N) of two bases.
        other: that of the base that both are compared with.
        groups: of images that are left out in turn.
    """

    def differences(kept_SN: Tensor) -> list[float]:
        near, far = (cka_of_subsets(gram, other, kept_SN) for gram in (plain, changed))
        values: list[float] = (near - far).tolist()
        return values

    found = jackknife_at_once(differences, len(other), min(groups, len(other) // 2))
    return found.high - found.value if math.isfinite(found.value) else math.nan
