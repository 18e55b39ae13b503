"""Evaluation of representations: discrepancy, proxy accuracy, detection of collapse."""

from headsearch.evaluation.collapse import collapse_reason, effective_rank, prototype_entropies
from headsearch.evaluation.discrepancy import (
    DISCREPANCIES,
    Discrepancy,
    discrepancy,
    discrepancy_of_grams,
)
from headsearch.evaluation.jackknife import Estimate, group_of_images, jackknife
from headsearch.evaluation.proxies.knn import accuracy, knn_predict
from headsearch.evaluation.proxies.linear import LinearScores, linear_scores
from headsearch.evaluation.similarity import (
    debiased_linear_cka,
    dominant_share,
    dominant_share_of_gram,
    gram,
    map_features,
    prototype_kl,
)

__all__ = [
    "DISCREPANCIES",
    "Discrepancy",
    "Estimate",
    "LinearScores",
    "accuracy",
    "collapse_reason",
    "debiased_linear_cka",
    "discrepancy",
    "discrepancy_of_grams",
    "dominant_share",
    "dominant_share_of_gram",
    "effective_rank",
    "gram",
    "group_of_images",
    "jackknife",
    "knn_predict",
    "linear_scores",
    "map_features",
    "prototype_entropies",
    "prototype_kl",
]
