"""Complementarity: compared with scikit-learn, and on features whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from headsearch.evaluation.complementarity import BaseProbe
from headsearch.evaluation.proxies.labelled import LabelledImages
from headsearch.evaluation.proxies.linear import L2

QUERIES, BANK = 400, 600


def labelled(labels: Tensor) -> LabelledImages:
    """The first QUERIES images are queries, half of which choose."""
    return LabelledImages(
        bank_labels_N=labels[QUERIES:],
        labels_M=labels[:QUERIES],
        choose=torch.arange(0, QUERIES, 2),
        report=torch.arange(1, QUERIES, 2),
        classes=int(labels.max()) + 1,
    )


def noise(width: int, seed: int) -> Tensor:
    return torch.randn(QUERIES + BANK, width, generator=torch.Generator().manual_seed(seed))


def compare(base: Tensor, head: Tensor, labels: Tensor) -> dict[str, float]:
    images = labelled(labels)
    return BaseProbe(base, images).compare(head, images.linear(head))


def test_it_is_the_difference_of_two_of_sklearns_probes() -> None:
    labels = torch.randint(4, (QUERIES + BANK,), generator=torch.Generator().manual_seed(0))
    means = noise(6, seed=1)[:4]
    base = means[labels] + 2 * noise(6, seed=2)
    head = means[labels] + 2 * noise(6, seed=3)
    chosen = slice(0, QUERIES, 2)

    def predicted(*features: Tensor) -> np.ndarray:
        x = torch.cat(features, dim=1).double().numpy()
        x = (x - x[QUERIES:].mean(0)) / x[QUERIES:].std(0)
        probe = LogisticRegression(C=1 / (L2 * BANK), tol=1e-10, max_iter=5000)
        probe.fit(x[QUERIES:], labels[QUERIES:].numpy())
        return probe.predict(x[chosen]) == labels[chosen].numpy()

    found = compare(base, head, labels)
    want = predicted(base, head).mean() - predicted(base, base).mean()
    assert want > 0.05  # so that the comparison says something
    assert found["complementarity"] == pytest.approx(want)
    only_head = predicted(head) & ~predicted(base)
    assert found["head_only_right"] == pytest.approx(only_head.mean())


def test_a_head_that_tells_what_the_base_lacks_adds_it() -> None:
    """Four classes are two bits: the base tells one, the head the other."""
    bits = torch.randint(2, (QUERIES + BANK, 2), generator=torch.Generator().manual_seed(0))
    labels = 2 * bits[:, 0] + bits[:, 1]
    of_bit = [bits[:, i : i + 1] + 0.05 * noise(3, seed=i) for i in (0, 1)]
    found = compare(of_bit[0], of_bit[1], labels)
    assert found["complementarity"] == pytest.approx(0.5, abs=0.1)
    again = compare(of_bit[0], of_bit[0] + 0.01 * noise(3, seed=7), labels)
    assert abs(again["complementarity"]) < 0.05


def test_a_head_alone_is_right_about_what_the_base_gets_wrong() -> None:
    labels = torch.randint(2, (QUERIES + BANK,), generator=torch.Generator().manual_seed(0))
    images, useless = labelled(labels), noise(3, seed=1)
    telling = labels[:, None] + 0.05 * noise(3, seed=2)
    of_base = images.accuracy(images.linear(useless), images.choose)
    assert of_base < 0.7
    assert compare(useless, telling, labels)["head_only_right"] == pytest.approx(1 - of_base)
    assert compare(telling, useless, labels)["head_only_right"] == 0


def test_the_features_of_the_base_in_another_scale_add_nothing() -> None:
    """As those of `identity`, whose norm has weights of its own."""
    labels = torch.randint(4, (QUERIES + BANK,), generator=torch.Generator().manual_seed(0))
    base = noise(6, seed=1)[:4][labels] + 2 * noise(6, seed=2)
    found = compare(base, base * torch.tensor([0.1, 1, 2, 3, 5, 9]) + 4, labels)
    assert found == {"complementarity": 0.0, "head_only_right": 0.0}
