"""Scores of a rung: they do not depend on how many heads are scored together."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from headsearch.config.settings import resolve
from headsearch.data.image.views import normalize
from headsearch.evaluation import (
    accuracy,
    debiased_linear_cka,
    discrepancy,
    effective_rank,
    features,
    linear_scores,
    map_features,
    rung,
)
from headsearch.models.network import Network, tokens_of
from headsearch.pretraining.head_selection import head_on
from headsearch.training.setup import TrainingSetup, attach, prepare_training

HEADS = ("mixer-d1", "poolformer-d1-p3", "identity", "attention-d1")


def grown(**changes: Any) -> tuple[TrainingSetup, Network]:
    settings: dict[str, Any] = {
        "base": "test_vit", "image_size": 16, "patch_size": 4, "images": 64, "batch_size": 16,
        "eval_images": 48, "bank_images": 48, "device": "cpu", "precision": "float32",
    }  # fmt: skip
    setup = prepare_training(resolve({**settings, **changes}))
    trainer = setup.new_trainer("observe")
    for name in HEADS:
        attach(trainer, setup, head_on(setup.plan, name).candidate)
    return setup, trainer.teacher.network


@pytest.mark.parametrize("changes", [{}, {"objective": "dino", "discrepancy": "prototype_kl"}])
def test_heads_scored_in_groups_score_as_when_scored_together(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    setup, network = grown(**changes)
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    network.base.register_forward_hook(count)
    together = setup.scores(network)
    in_one_group, passes = passes, 0
    monkeypatch.setattr(features, "POOLED_NUMBERS", 2 * 96 * setup.plan.dim)
    assert setup.scores(network) == together
    in_two_groups, passes = passes, 0
    monkeypatch.setattr(features, "POOLED_NUMBERS", 1)
    assert setup.scores(network) == together
    # The base passes over the images anew for each group: the more groups, the more passes.
    assert in_one_group < in_two_groups < passes
    assert list(together.heads) == list(HEADS)


def test_a_base_without_heads_is_scored() -> None:
    setup, network = grown()
    expected = setup.scores(network).base
    for name in HEADS:
        network.detach(name)
    found = setup.scores(network)
    assert found.heads == {}
    assert found.base == expected


@pytest.mark.parametrize("heads", [len(HEADS), 0])
@pytest.mark.parametrize("groups", [1, len(HEADS)])
def test_progress_counts_the_heads_that_are_scored(
    heads: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup, network = grown()
    for name in HEADS[heads:]:
        network.detach(name)
    if groups > 1:
        monkeypatch.setattr(features, "POOLED_NUMBERS", 1)
    seen: list[rung.ScoringProgress] = []
    setup.scores(network, seen.append)
    assert {progress.heads for progress in seen} == {heads}
    shares = [progress.share for progress in seen]
    assert shares == sorted(shares)
    assert len({*shares}) > heads
    assert (seen[-1].heads_done, shares[-1]) == (heads, pytest.approx(1))


def test_each_head_passes_once_over_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    setup, network = grown()
    monkeypatch.setattr(features, "PROBE_IMAGES", 20)  # of 32 queries, in batches of 16
    passed = dict.fromkeys(HEADS, 0)

    def count(name: str, images: int) -> None:
        passed[name] += images

    for name, head in network.heads.items():
        head.head.register_forward_hook(
            lambda module, inputs, output, name=name: count(name, len(output))
        )
    setup.scores(network)
    images = len(setup.data.queries) + len(setup.data.bank or ())
    assert passed == dict.fromkeys(HEADS, images)


def test_a_rung_scores_what_each_measure_says_of_plain_features() -> None:
    """Base and heads in one batch each, and every figure by the public functions."""
    setup, network = grown()
    data, found = setup.data, setup.scores(network)
    assert data.bank is not None
    assert data.bank.labels is not None
    labels, count = data.queries.labels, len(data.queries)
    pixels = torch.cat(
        [images.batch(torch.arange(len(images))) for images in (data.queries, data.bank)]
    )
    with torch.no_grad():
        base = network.base(normalize(pixels))
        base_map = base.maps_BDHW[0]
        of_base = map_features(tokens_of(base_map[:count]))
        for name, head in network.heads.items():
            tokens = head.tokens(base_map)
            pooled = head.norm(tokens).mean(1)
            scores = found.heads[name]
            want = discrepancy(of_base, map_features(tokens[:count]))
            assert scores.discrepancy is not None
            assert scores.report is not None
            assert scores.discrepancy.value == pytest.approx(want.value, abs=1e-5)
            assert scores.discrepancy.low == pytest.approx(want.low, abs=1e-5)
            assert scores.effective_rank == pytest.approx(effective_rank(pooled[:count]), rel=1e-4)
            predicted = linear_scores(
                pooled[count:], data.bank.labels, pooled[:count], len(data.bank.classes)
            ).predicted()
            assert labels is not None
            right = accuracy(predicted[data.report], labels[data.report])
            assert scores.report.linear == pytest.approx(right, abs=0.05)
            assert scores.report.linear_top5 is not None  # of ten classes
            assert right <= scores.report.linear_top5 <= 1
            pooled_maps = [map_features(t[:count]).view(*t[:count].shape).mean(1)
                           for t in (tokens_of(base_map), tokens)]  # fmt: skip
            assert scores.further["discrepancy_pooled"] == pytest.approx(
                1 - float(debiased_linear_cka(*pooled_maps)), abs=1e-5
            )
    assert found.heads["identity"].further == pytest.approx(
        {"complementarity": 0, "head_only_right": 0, "discrepancy_pooled": 0}, abs=1e-9
    )
