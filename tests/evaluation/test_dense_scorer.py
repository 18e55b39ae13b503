"""Dense scores of whole representations: passes over the images, groups of heads, baselines."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from headsearch.config.input_shape import InputShape
from headsearch.data.dense import DenseData, built_in
from headsearch.data.dense.built_in import built_in as rendered
from headsearch.evaluation import dense
from headsearch.evaluation.dense import DenseScorer
from headsearch.models.bases import Stage
from headsearch.models.network import BASE
from headsearch.runs.other_data import DENSE_SCORES
from helpers.tiny_training import DIM, TINY_VIT, make_trainer

GRID = (8, 8)


@pytest.fixture(scope="module")
def data() -> DenseData:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(built_in, "TRAIN_IMAGES", 40)
        patch.setattr(built_in, "EVALUATION_IMAGES", 60)
        return rendered("scenes-things", 32, seed=0)


def scorer(data: DenseData, batch_size: int = 16) -> DenseScorer:
    return DenseScorer(data, torch.device("cpu"), batch_size)


def patches(pixels: Tensor) -> Tensor:
    """Random features of 4×4 patches, a stand-in for a network."""
    projection = torch.randn(48, 24, generator=torch.Generator().manual_seed(0))
    flat = torch.nn.functional.pixel_unshuffle(pixels.float() / 255, 4)
    return torch.einsum("bchw,cd->bdhw", flat, projection).relu()


def test_the_columns_are_those_that_the_data_give(data: DenseData) -> None:
    assert set(scorer(data).columns(GRID)) == set(DENSE_SCORES)
    masks_alone = DenseData(
        "masks",
        *(type(s)(s.names, s.pixels, s.masks) for s in (data.train, data.evaluation)),
        data.mask_classes, (), (),
    )  # fmt: skip
    assert scorer(masks_alone).columns(GRID) == ("seg_knn", "seg_linear")
    boxes_alone = DenseData(
        "boxes",
        *(type(s)(s.names, s.pixels, None, s.objects) for s in (data.train, data.evaluation)),
        (), data.box_classes, (),
    )  # fmt: skip
    assert "seg_knn" not in scorer(boxes_alone).columns(GRID)
    assert scorer(boxes_alone).ceiling(GRID) is None


def test_scores_do_not_depend_on_batches_nor_on_other_representations(data: DenseData) -> None:
    alone = scorer(data).scores(lambda x: {"a": patches(x)})["a"]
    among = scorer(data, 7).scores(lambda x: {"b": patches(x) + 1, "a": patches(x)})["a"]
    for name in DENSE_SCORES:
        assert among.report[name] == pytest.approx(alone.report[name], abs=2e-3), name
        assert among.without[name] == pytest.approx(alone.without[name], abs=2e-3), name


def test_a_representation_that_diverged_has_no_scores(data: DenseData) -> None:
    shares: list[float] = []
    found = scorer(data).scores(
        lambda x: {"lost": patches(x) * math.nan, "sound": patches(x)}, shares.append
    )
    assert found["lost"].report == {}
    assert set(found["sound"].report) == set(DENSE_SCORES)
    assert sum(shares) == pytest.approx(1.0)


def test_patches_tell_more_than_position_and_less_than_the_ceiling(data: DenseData) -> None:
    own = scorer(data)
    baselines = own.baselines(GRID)
    ceiling = own.ceiling(GRID)
    found = own.scores(lambda x: {"a": patches(x)})["a"]
    assert ceiling is not None
    assert baselines["position"].report["seg_knn"] < found.report["seg_knn"] < ceiling
    assert baselines["position"].report["det_ap50"] < found.report["det_ap50"]
    assert set(baselines["pixels"].report) == set(DENSE_SCORES)


def test_heads_that_do_not_fit_into_memory_are_scored_in_groups(
    data: DenseData, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(
        TINY_VIT,
        input_shape=InputShape.square(32),
        stages=(Stage(DIM, GRID), Stage(DIM, GRID)),
        arguments={**TINY_VIT.arguments, "img_size": 32},
    )
    trainer = make_trainer(["mixer", "poolformer", "attention"], dtype=torch.float32, plan=plan)
    network = trainer.teacher.network.eval()
    names = list(network.heads)
    at_once = scorer(data).of_network(network, names, autocast=False)
    monkeypatch.setattr(dense, "KEPT_CPU", 1)
    calls: list[int] = []
    original = DenseScorer.scores

    def counted(self: DenseScorer, *args: object) -> object:
        calls.append(1)
        return original(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(DenseScorer, "scores", counted)
    in_groups = scorer(data).of_network(network, names, autocast=False)
    assert len(calls) == 3
    assert set(at_once) == set(in_groups) == {BASE, *names}
    for name in at_once:
        assert in_groups[name].report == pytest.approx(at_once[name].report, nan_ok=True)
