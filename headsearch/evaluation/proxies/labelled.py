"""The labelled images that the proxies use, and their predictions for pooled features.

Dimensions: N images of the bank, M queries, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from headsearch.evaluation.proxies.knn import accuracy, knn_predict
from headsearch.evaluation.proxies.linear import L2, LinearScores, linear_scores


@dataclass(frozen=True)
class LabelledImages:
    """The labels of bank and queries. Features of these images are (M + N, D), queries first.

    Attributes:
        bank_labels_N: the classes of the bank, which the proxies are fitted on.
        labels_M: the classes of the queries.
        choose: indices of the queries whose labels may choose between heads.
        report: indices of the queries whose labels are only reported.
        classes: the number of classes.
    """

    bank_labels_N: Tensor
    labels_M: Tensor
    choose: Tensor
    report: Tensor
    classes: int

    def knn(self, features: Tensor) -> Tensor:
        """The classes of the queries by weighted k-NN: (M,)."""
        queries = len(self.labels_M)
        return knn_predict(features[queries:], self.bank_labels_N, features[:queries], self.classes)

    def linear(self, features: Tensor, l2: float = L2) -> Tensor:
        """The classes of the queries by a linear probe: (M,)."""
        return self.linear_scores(features, l2).predicted()

    def linear_scores(self, features: Tensor, l2: float = L2) -> LinearScores:
        """What a linear probe says about the queries."""
        queries = len(self.labels_M)
        return linear_scores(
            features[queries:], self.bank_labels_N, features[:queries], self.classes, l2
        )

    def accuracy(self, predicted_M: Tensor, split: Tensor) -> float:
        """The share of right predictions among the queries of a split."""
        return accuracy(predicted_M[split], self.labels_M[split])

    def share_among(self, best_MB: Tensor, split: Tensor) -> float:
        """The share of the queries of a split whose class is among the B classes given for each."""
        hits = (best_MB[split] == self.labels_M[split, None]).any(dim=1)
        return float(hits.double().mean())
