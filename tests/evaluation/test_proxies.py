"""Proxy accuracy: k-NN and linear probe agree with reference implementations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from headsearch.evaluation import accuracy, knn_predict, linear_scores
from headsearch.evaluation.proxies import knn
from headsearch.evaluation.proxies.labelled import LabelledImages

CLASSES = 5


def linear_predict(*arguments: Any, **choices: Any) -> Tensor:
    return linear_scores(*arguments, **choices).predicted()


def blobs(n: int, width: int, seed: int, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Overlapping classes in features whose variances span four orders of magnitude."""
    means = 0.6 * torch.randn(CLASSES, width, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (n,), generator=generator)
    x = means[labels] + spread * torch.randn(n, width, generator=generator)
    return x * torch.logspace(0, -2, width) + 4.0, labels


def test_knn_is_the_weighted_vote_counted_one_by_one() -> None:
    bank, labels = blobs(60, 8, seed=0, spread=2.0)
    queries, _ = blobs(25, 8, seed=1, spread=2.0)
    want = []
    for query in queries.double():
        similarity = [float(query @ b / query.norm() / b.norm()) for b in bank.double()]
        votes = [0.0] * CLASSES
        for i in sorted(range(60), key=lambda i: -similarity[i])[:7]:
            votes[int(labels[i])] += math.exp(similarity[i] / 0.07)
        want.append(int(np.argmax(votes)))
    assert knn_predict(bank, labels, queries, CLASSES, k=7).tolist() == want


def test_knn_agrees_with_sklearns() -> None:
    # far-spread directions, so that the weights decide and not the count alone
    bank, labels = blobs(300, 6, seed=2)
    queries, _ = blobs(200, 6, seed=3)
    bank, queries = bank - 4, queries - 4
    reference = KNeighborsClassifier(
        20, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07)
    ).fit(bank.double().numpy(), labels.numpy())
    got = knn_predict(bank, labels, queries, CLASSES)
    assert np.mean(got.numpy() == reference.predict(queries.double().numpy())) > 0.99
    counted = reference.set_params(weights="uniform").predict(queries.double().numpy())
    assert np.mean(got.numpy() == counted) < 0.99


def test_knn_in_chunks_predicts_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, labels = blobs(50, 8, seed=4)
    queries, _ = blobs(33, 8, seed=5)
    whole = knn_predict(bank, labels, queries, CLASSES)
    monkeypatch.setattr(knn, "CHUNK", 7)
    assert torch.equal(knn_predict(bank, labels, queries, CLASSES), whole)


def test_knn_with_a_bank_smaller_than_k_lets_all_of_it_vote() -> None:
    bank, labels = torch.eye(3), torch.tensor([2, 0, 0])
    queries = torch.tensor([[1.0, 0.1, 0.1], [0.1, 1.0, 0.2]])
    assert knn_predict(bank, labels, queries, classes=3, k=20).tolist() == [2, 0]


@pytest.mark.parametrize(("given", "message"), [({"k": 0}, "k=0"), ({"temperature": 0.0}, "=0.0")])
def test_knn_refuses_values_out_of_range(given: dict[str, float], message: str) -> None:
    bank, labels = blobs(10, 3, seed=0)
    with pytest.raises(ValueError, match=message):
        knn_predict(bank, labels, bank, CLASSES, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(("images", "width"), [(400, 24), (80, 200)])
@pytest.mark.parametrize("l2", [1e-1, 1e-2, 1e-3])
def test_linear_probe_is_sklearns_logistic_regression(l2: float, images: int, width: int) -> None:
    bank, labels = blobs(images, width, seed=6, spread=2.0)
    queries, _ = blobs(400, width, seed=7, spread=2.0)
    mean, std = bank.double().mean(0), bank.double().std(0, correction=0)
    reference = LogisticRegression(C=1 / (l2 * images), tol=1e-8, max_iter=5000)
    reference.fit(((bank - mean) / std).numpy(), labels.numpy())
    got = linear_predict(bank, labels, queries, CLASSES, l2=l2)
    assert got.dtype == torch.int64
    assert np.array_equal(got.numpy(), reference.predict(((queries - mean) / std).numpy()))


def test_linear_probe_does_not_mind_the_units_of_a_feature() -> None:
    bank, labels = blobs(200, 10, seed=8)
    queries, _ = blobs(100, 10, seed=9)
    units = torch.logspace(-3, 3, 10)
    plain = linear_predict(bank, labels, queries, CLASSES)
    assert torch.equal(linear_predict(bank * units, labels, queries * units, CLASSES), plain)


def test_linear_probe_takes_nothing_from_a_constant_feature() -> None:
    bank, labels = blobs(200, 10, seed=8)
    queries, _ = blobs(100, 10, seed=9)
    plain = linear_predict(bank, labels, queries, CLASSES)
    constant = torch.full((200, 1), 0.1)
    other = torch.full((100, 1), 0.3)  # a query may well differ there
    wide_bank, wide_queries = torch.cat([bank, constant], 1), torch.cat([queries, other], 1)
    assert torch.equal(linear_predict(wide_bank, labels, wide_queries, CLASSES), plain)


def test_linear_probe_predicts_only_classes_of_the_bank() -> None:
    bank, labels = blobs(120, 10, seed=10)
    shown = (labels == 1) | (labels == 4)
    got = linear_predict(bank[shown], labels[shown], bank, CLASSES)
    assert set(got.tolist()) == {1, 4}
    assert accuracy(got[shown], labels[shown]) > 0.9
    alone = labels == 2
    assert linear_predict(bank[alone], labels[alone], bank, CLASSES).unique().tolist() == [2]


def test_linear_probe_works_where_gradients_are_off_and_leaves_none_behind() -> None:
    bank, labels = blobs(60, 6, seed=11)
    with torch.no_grad():
        off = linear_predict(bank, labels, bank, CLASSES)
        assert not torch.is_grad_enabled()
    assert torch.equal(off, linear_predict(bank, labels, bank, CLASSES))
    with pytest.raises(ValueError, match="l2=0"):
        linear_predict(bank, labels, bank, CLASSES, l2=0.0)


def test_the_likeliest_classes_are_sklearns() -> None:
    generator = torch.Generator().manual_seed(12)
    means = torch.randn(12, 10, generator=generator)
    labels = torch.arange(480) % 12
    x = means[labels] + 2 * torch.randn(480, 10, generator=generator)
    numbers = torch.tensor([3 * c for c in range(12)])[labels]  # most numbers stand for no class
    bank, queries = x[:240], x[240:]
    mean, std = bank.double().mean(0), bank.double().std(0, correction=0)
    reference = LogisticRegression(C=1 / (1e-2 * 240), tol=1e-10, max_iter=5000)
    reference.fit(((bank - mean) / std).numpy(), numbers[:240].numpy())
    chances = reference.predict_proba(((queries - mean) / std).numpy())
    want = reference.classes_[np.argsort(-chances, axis=1)[:, :5]]
    scores = linear_scores(bank, numbers[:240], queries, 36)
    best = scores.best(5)
    assert best is not None
    assert np.array_equal(best.numpy(), want)
    assert torch.equal(best[:, 0], scores.predicted())
    images = LabelledImages(
        numbers[:240], numbers[240:], torch.arange(0, 240, 2), torch.arange(1, 240, 2), 36
    )
    hits = (want == numbers[240:, None].numpy()).any(1)
    assert images.share_among(best, images.report) == pytest.approx(hits[1::2].mean())
    assert images.share_among(best, images.report) > images.accuracy(best[:, 0], images.report)


def test_the_likeliest_five_of_five_classes_say_nothing() -> None:
    bank, labels = blobs(60, 6, seed=13)
    assert linear_scores(bank, labels, bank, CLASSES).best(5) is None


def test_accuracy_is_the_share_of_hits() -> None:
    assert accuracy(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 2, 0])) == 0.75
