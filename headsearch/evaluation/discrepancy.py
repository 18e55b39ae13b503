"""Discrepancy: how different a head's representation is from the base's, with a 95 % interval.

Dimensions: N images, P and Q features of an image (`map_features`), S subsets of the images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from headsearch.errors import unknown
from headsearch.evaluation.jackknife import Estimate, jackknife, jackknife_at_once
from headsearch.evaluation.similarity import (
    BaseGram,
    cka_of_grams,
    cka_of_subsets,
    dominant_share,
    gram,
    knn_overlap_of_grams,
    map_features,
    procrustes_cosine,
)

__all__ = [
    "DISCREPANCIES",
    "Discrepancy",
    "Estimate",
    "discrepancy",
    "discrepancy_of_grams",
    "dominant_share",
    "map_features",
]


@dataclass(frozen=True)
class Discrepancy:
    """A measure of difference: 0 for representations that agree, larger the less they do.

    Attributes:
        name: the name in `DISCREPANCIES`.
        help: one line for the user: the range, and the known weakness.
        compare: the measure of a base and a head, the head by its Gram matrix (N, N): a
            0-dimensional tensor.
        of_subsets: the measure of S subsets of the images at once, (S,), from both Gram matrices
            and the images that each subset keeps, (S, N) bool. None if computing them together is
            not faster than one by one.
    """

    name: str
    help: str
    compare: Callable[[BaseGram, Tensor], Tensor]
    of_subsets: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None

    def function(self, base_NN: Tensor, head_NN: Tensor) -> Tensor:
        """The measure from two Gram matrices: a 0-dimensional tensor."""
        return self.compare(BaseGram(base_NN), head_NN)


def _cka(base: BaseGram, head_NN: Tensor) -> Tensor:
    return 1 - cka_of_grams(base.gram_NN, head_NN)


def _cka_of_subsets(base_NN: Tensor, head_NN: Tensor, kept_SN: Tensor) -> Tensor:
    return 1 - cka_of_subsets(base_NN, head_NN, kept_SN)


def _mutual_knn(base: BaseGram, head_NN: Tensor) -> Tensor:
    return 1 - knn_overlap_of_grams(base.gram_NN, head_NN)


def _procrustes(base: BaseGram, head_NN: Tensor) -> Tensor:
    cosine = procrustes_cosine(base, head_NN)
    return cosine.clamp(max=1).arccos()  # only rounding makes a cosine exceed 1


DISCREPANCIES: dict[str, Discrepancy] = {
    entry.name: entry
    for entry in (
        Discrepancy(
            "cka",
            "1 − debiased linear CKA; 0 to about 1, independent features average 1",
            _cka,
            _cka_of_subsets,
        ),
        Discrepancy(
            "mutual_knn",
            "1 − overlap of the 10 nearest images; 0 to 1, compares neighbourhoods only",
            _mutual_knn,
        ),
        Discrepancy(
            "procrustes",
            "angle in radians after the best rotation; 0 to π/2, too small where features "
            "outnumber images",
            _procrustes,
        ),
    )
}


def discrepancy_of_grams(
    base_NN: Tensor, head_NN: Tensor, measure: str = "cka", groups: int = 20
) -> Estimate:
    """`discrepancy` from Gram matrices (`gram`), for comparing many heads with one base.

    Raises:
        UserError: no such measure.
        ValueError: too few images, too many groups, or different numbers of images.
    """
    if measure not in DISCREPANCIES:
        raise unknown("discrepancy", measure, DISCREPANCIES)
    if base_NN.shape != head_NN.shape:
        raise ValueError(
            f"Base and head need the same images, but got {len(base_NN)} and {len(head_NN)}."
        )
    function, of_subsets = DISCREPANCIES[measure].function, DISCREPANCIES[measure].of_subsets
    if of_subsets is not None:

        def at_once(kept_SN: Tensor) -> list[float]:
            values: list[float] = of_subsets(base_NN, head_NN, kept_SN).tolist()
            return values

        return jackknife_at_once(at_once, len(base_NN), groups)

    def score(kept: Tensor | None) -> float:
        if kept is None:
            return float(function(base_NN, head_NN))
        kept = kept.to(base_NN.device)
        return float(function(base_NN[kept][:, kept], head_NN[kept][:, kept]))

    return jackknife(score, len(base_NN), groups)


def discrepancy(
    base_NP: Tensor, head_NP: Tensor, measure: str = "cka", groups: int = 20
) -> Estimate:
    """How different two representations of the same images are, with a 95 % interval.

    The interval is a jackknife over images in `groups` fixed groups (`jackknife`). Use 256 images
    or more. NaN if one representation is constant or not finite.

    Args:
        base_NP: (N, P) features of the base, a row an image; `map_features`.
        head_NP: (N, Q) features of the head on the same images in the same order.
        measure: a name in `DISCREPANCIES`.
        groups: at most as many as images. With one group left out, at least as many images must
            remain as the measure needs (cka 4, mutual_knn 11).

    Raises:
        UserError: no such measure.
        ValueError: too few images, too many groups, or different numbers of images.
    """
    return discrepancy_of_grams(gram(base_NP), gram(head_NP), measure, groups)
