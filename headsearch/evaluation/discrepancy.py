"""How different a head's representation is from the base's, with its interval over images.

Dimensions: N images, P features of an image (`map_features`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from headsearch.errors import unknown
from headsearch.evaluation.jackknife import Estimate, jackknife, jackknife_at_once
from headsearch.evaluation.similarity import (
    cka_of_grams,
    cka_of_subsets,
    dominant_share,
    gram,
    knn_overlap_of_grams,
    map_features,
    procrustes_cosine_beside,
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
        help: one line for the user: its range, and what to beware of.
        beside: from the base's Gram to the measure of a head by its own (both N, N; of centred
            features, float64); what only the base decides is computed once.
        of_subsets: the same from both Grams and which images each of S subsets keeps, (S, N) bool,
            for all subsets at once: (S,). None where that is no faster than one by one.
    """

    name: str
    help: str
    beside: Callable[[Tensor], Callable[[Tensor], Tensor]]
    of_subsets: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None

    def function(self, base_NN: Tensor, head_NN: Tensor) -> Tensor:
        """The measure: a 0-dimensional tensor."""
        return self.beside(base_NN)(head_NN)


def _procrustes_beside(k_NN: Tensor) -> Callable[[Tensor], Tensor]:
    cosine = procrustes_cosine_beside(k_NN)
    return lambda l_NN: cosine(l_NN).clamp(max=1).arccos()  # above 1 by rounding only


DISCREPANCIES: dict[str, Discrepancy] = {
    entry.name: entry
    for entry in (
        Discrepancy(
            "cka",
            "1 − debiased linear CKA; 0 to about 1, independent features average 1",
            lambda k_NN: lambda l_NN: 1 - cka_of_grams(k_NN, l_NN),
            lambda k_NN, l_NN, kept_SN: 1 - cka_of_subsets(k_NN, l_NN, kept_SN),
        ),
        Discrepancy(
            "mutual_knn",
            "1 − overlap of the 10 nearest images; 0 to 1, looks at neighbourhoods alone",
            lambda k_NN: lambda l_NN: 1 - knn_overlap_of_grams(k_NN, l_NN),
        ),
        Discrepancy(
            "procrustes",
            "angle in radians after the best rotation; 0 to π/2, too small where features "
            "outnumber images",
            _procrustes_beside,
        ),
    )
}


def discrepancy_of_grams(
    base_NN: Tensor, head_NN: Tensor, measure: str = "cka", groups: int = 20
) -> Estimate:
    """`discrepancy` from `gram`s, for callers that compare many heads with one base."""
    if measure not in DISCREPANCIES:
        raise unknown("discrepancy", measure, DISCREPANCIES)
    if base_NN.shape != head_NN.shape:
        raise ValueError(
            f"Base and head need the same images, but got {len(base_NN)} and {len(head_NN)}."
        )
    function, of_subsets = DISCREPANCIES[measure].function, DISCREPANCIES[measure].of_subsets
    if of_subsets is not None:

        def at_once(kept_SN: Tensor) -> list[float]:
            found: list[float] = of_subsets(base_NN, head_NN, kept_SN).tolist()
            return found

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
    or more. NaN where one representation is constant or not finite.

    Args:
        base_NP: (N, P) features of the base, one row an image; `map_features`.
        head_NP: (N, Q) features of the head on the same images in the same order.
        measure: a name in `DISCREPANCIES`.
        groups: at most as many as images, and few enough to leave a measure its minimum of images
            when one group is out (cka 4, mutual_knn 11).

    Raises:
        UserError: no such measure.
        ValueError: too few images, too many groups, or not the same images on both sides.
    """
    return discrepancy_of_grams(gram(base_NP), gram(head_NP), measure, groups)
