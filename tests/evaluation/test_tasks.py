"""Scores of further tasks against independent formulas, and how their samples are grouped."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from headsearch.config.input_shape import InputShape
from headsearch.data.image.store import ImagesInMemory
from headsearch.data.tasks import Task
from headsearch.evaluation.proxies.grouped_scores import standard_error
from headsearch.evaluation.tasks import scores_of, statistics_of

GROUPS = 20


def samples(count: int, labels: torch.Tensor | None, classes: int) -> ImagesInMemory:
    names = tuple(f"class{index}" for index in range(classes))
    pixels = torch.zeros(count, 3, 4, 4, dtype=torch.uint8)
    return ImagesInMemory("made", pixels, labels, names, InputShape.square(4))


def labelled_task(name: str = "made") -> tuple[Task, torch.Tensor]:
    """A task of three classes whose features tell them apart in part."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    centres = 1.5 * torch.randn(3, 8, generator=generator)
    features = centres[labels] + 2 * torch.randn(300, 8, generator=generator)
    task = Task(
        name, "image", samples(120, labels[:120], 3), samples(180, labels[120:], 3),
        torch.randperm(120, generator=generator),
    )  # fmt: skip
    return task, features


def pair_task(name: str = "pairs") -> tuple[Task, torch.Tensor]:
    """200 pairs whose cosine follows their score, with noise."""
    generator = torch.Generator().manual_seed(1)
    first, noise = torch.randn(2, 200, 16, generator=generator)
    weight = torch.rand(200, generator=generator)
    features = torch.cat([first, weight[:, None] * first + (1 - weight[:, None]) * noise])
    scores = (weight + 0.3 * torch.randn(200, generator=generator)).double()
    order = torch.randperm(200, generator=generator)
    return Task(name, "text", samples(400, None, 0), None, order, scores), features


def halves(order: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The samples that choose and those that are reported: every second twentieth of the order."""
    parts = order.chunk(GROUPS)
    return torch.cat(parts[::2]), torch.cat(parts[1::2])


def test_both_halves_have_all_classes_in_proportion() -> None:
    """Also where the classes of the order follow each other with a fixed period."""
    labels = torch.arange(200) % 10
    names, order = 10, torch.arange(200)
    task = Task("t", "image", samples(200, labels, names), samples(200, labels, names), order)
    features = torch.nn.functional.one_hot(labels.repeat(2), 10).float()
    features[labels.repeat(2) == 3] = features[4].clone()  # one class of ten looks like another
    found = scores_of([statistics_of(task, features)])
    assert found.choose["task_linear/t"] == found.report["task_linear/t"] == pytest.approx(0.9)
    assert set(found.without["task_linear/t"]) == {found.report["task_linear/t"]}


def test_accuracies_are_those_of_proxies_fitted_on_the_bank() -> None:
    task, features = labelled_task()
    found = scores_of([statistics_of(task, features)])
    labels = task.queries.labels
    assert labels is not None
    assert task.bank is not None
    assert task.bank.labels is not None
    unit = torch.nn.functional.normalize(features, dim=1).numpy()
    knn = KNeighborsClassifier(20, weights=lambda d: np.exp((1 - d**2 / 2) / 0.07))
    knn.fit(unit[120:], task.bank.labels.numpy())
    right = torch.from_numpy(knn.predict(unit[:120])) == labels
    choose, report = halves(task.order)
    assert found.choose["task_knn/made"] == pytest.approx(float(right[choose].double().mean()))
    assert found.report["task_knn/made"] == pytest.approx(float(right[report].double().mean()))
    linear = LogisticRegression(max_iter=2000).fit(features[120:], task.bank.labels)
    theirs = fmean(linear.predict(features[:120][report]) == labels[report].numpy())
    assert found.report["task_linear/made"] == pytest.approx(theirs, abs=0.05)


def test_pairs_are_ranked_by_the_cosine_of_their_texts() -> None:
    task, features = pair_task()
    found = scores_of([statistics_of(task, features)])
    assert task.scores is not None
    centred = features - features.mean(dim=0)
    cosine = torch.nn.functional.cosine_similarity(centred[:200], centred[200:])
    for half, part in zip((found.choose, found.report), halves(task.order), strict=True):
        expected = spearmanr(cosine[part], task.scores[part]).statistic
        assert half["task_spearman/pairs"] == pytest.approx(expected, abs=1e-6)
    assert 0.3 < found.report["task_spearman/pairs"] < 1


def test_the_mean_weighs_tasks_alike_and_so_do_its_errors() -> None:
    (labelled, features), (pairs, of_pairs) = labelled_task(), pair_task()
    found = scores_of([statistics_of(labelled, features), statistics_of(pairs, of_pairs)])
    accuracy = (found.report["task_knn/made"] + found.report["task_linear/made"]) / 2
    mean = (accuracy + found.report["task_spearman/pairs"]) / 2
    assert found.report["task_mean"] == pytest.approx(mean)
    error = standard_error(found.without["task_knn/made"])
    share = found.report["task_knn/made"]
    assert error == pytest.approx(math.sqrt(share * (1 - share) / 60), rel=0.6)
    assert len(found.without["task_mean"]) == GROUPS / 2


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_features_that_are_not_finite_have_no_score_and_spoil_the_mean(broken: float) -> None:
    (labelled, features), (pairs, of_pairs) = labelled_task(), pair_task()
    of_pairs[7, 3] = broken
    found = scores_of([statistics_of(labelled, features), statistics_of(pairs, of_pairs)])
    assert found.report == {}


def test_what_all_features_share_changes_no_similarity() -> None:
    task, features = pair_task()
    found, moved = (scores_of([statistics_of(task, f)]) for f in (features, features + 100))
    assert moved.report == pytest.approx(found.report, abs=1e-3)


def test_features_that_are_all_equal_rank_no_pairs() -> None:
    task, features = pair_task()
    found: Any = scores_of([statistics_of(task, torch.ones_like(features))])
    assert found.report["task_spearman/pairs"] == 0
