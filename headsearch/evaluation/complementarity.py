"""Complementarity: what a head's features tell about the labels that the base's do not.

Dimensions: N images of the bank, M queries, D features of the base, H features of the head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from headsearch.evaluation.proxies.labelled import LabelledImages
from headsearch.evaluation.proxies.linear import L2


class BaseProbe:
    """The linear probes of a base, fitted once and compared with those of many heads.

    Args:
        base: (M + N, D) features of the base, queries first. Their form is that of a head's
            features: the mean over tokens of the last map, each token normalised. So base and
            `identity` have the same features up to the scale of each, which the probe removes.
        images: their labels.
    """

    def __init__(self, base: Tensor, images: LabelledImages) -> None:
        self._base, self._images = base, images
        self._right = self._is_right(images.linear(base))
        # Two equal copies of the features share the weights, which halves the penalty.
        twice = images.linear(base, L2 / 2)
        self._accuracy_twice = images.accuracy(twice, images.choose)

    def compare(self, head: Tensor, predicted_M: Tensor) -> dict[str, float]:
        """`complementarity` and `head_only_right` of a head, on the labels that may choose.

        - `complementarity`: the accuracy of a linear probe on [base, head], minus that of one on
          [base, base], which has the same penalty on the weights. It estimates what the head's
          features add for a linear probe that has the base's already. This is conditional probing
          (Hewitt et al. 2021, arXiv 2109.09234, section 3), in accuracy instead of nats. −1 to 1.
        - `head_only_right`: the share of images that the head's probe classifies rightly and the
          base's wrongly. 0 to 1.

        Both are 0 for `identity`, up to rounding.

        Args:
            head: (M + N, H) features of the head, queries first.
            predicted_M: the predictions of the head's own linear probe.
        """
        images = self._images
        both = images.linear(torch.cat([self._base, head], dim=1))
        only_head = self._is_right(predicted_M) & ~self._right
        return {
            "complementarity": images.accuracy(both, images.choose) - self._accuracy_twice,
            "head_only_right": float(only_head.double().mean()),
        }

    def _is_right(self, predicted_M: Tensor) -> Tensor:
        """Which of the predictions are right, of the queries that may choose."""
        chosen = self._images.choose
        return predicted_M[chosen] == self._images.labels_M[chosen]
