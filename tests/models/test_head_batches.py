"""`--images-per-head`: heads that see a share of a step's images train as they would on these."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headsearch.config.settings import Coupling, ImagesPerHead, resolve
from headsearch.errors import UserError
from headsearch.models.head_batches import draw_head_batches, head_batch_size
from headsearch.pretraining.setup import prepare_pretraining
from headsearch.runs.run import read_run
from headsearch.study.search import Search
from headsearch.training.objectives import OBJECTIVES
from headsearch.training.schedules import StepPosition
from headsearch.training.trainer import Trainer
from helpers.made_up_costs import foresee, tiny
from helpers.tiny_training import backward, crops, make_trainer, of_base, of_head

HEADS = ["attention", "mixer", "poolformer"]
IMAGES = 8
MOMENT = StepPosition(4, 40)
CPU = torch.device("cpu")


def rows(
    setting: ImagesPerHead, heads: list[str], *, batch: int = IMAGES, seed: int = 0, step: int = 4
) -> dict[str, list[int]]:
    """The images that each head sees."""
    shares = draw_head_batches(setting, batch, heads, seed=seed, step=step, device=CPU)
    assert shares is not None
    found = {}
    for head, crops_of_head in shares.rows.items():
        first, second = crops_of_head.chunk(2)
        assert torch.equal(second, first + batch)  # both crops of the same images
        found[head] = first.tolist()
    return found


# which images -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "count"), [(8, 2), (12, 5), (64, 12), (6, 3)])
def test_a_share_is_of_equal_size_and_no_image_is_seen_twice(batch: int, count: int) -> None:
    seen = rows("share", [f"head{index}" for index in range(count)], batch=batch)
    assert {len(images) for images in seen.values()} == {batch // count}
    images = [image for of_head in seen.values() for image in of_head]
    assert len(set(images)) == len(images) == batch // count * count
    assert set(images) <= set(range(batch))


def test_with_a_number_a_head_sees_the_same_images_in_any_cohort() -> None:
    together = rows(3, HEADS)
    assert all(len(set(images)) == 3 for images in together.values())
    assert rows(3, ["mixer"])["mixer"] == together["mixer"]
    assert rows(3, HEADS[::-1]) == together
    assert any(rows(3, HEADS, step=5)[head] != together[head] for head in HEADS)
    assert any(rows(3, HEADS, seed=1)[head] != together[head] for head in HEADS)


def test_with_a_number_every_image_is_seen_as_often_by_each_head() -> None:
    steps, counts = 1600, torch.zeros(len(HEADS), IMAGES)
    for step in range(steps):
        for index, images in enumerate(rows(3, HEADS, step=step).values()):
            counts[index, images] += 1
    expected = steps * 3 / IMAGES
    # five standard deviations of a count
    assert (counts - expected).abs().max() < 5 * math.sqrt(expected * (1 - 3 / IMAGES))


@pytest.mark.parametrize(
    ("setting", "heads"), [("all", HEADS), ("share", ["mixer"]), (IMAGES, HEADS), (99, HEADS)]
)
def test_where_heads_see_all_there_is_nothing_to_share_out(
    setting: ImagesPerHead, heads: list[str]
) -> None:
    assert draw_head_batches(setting, IMAGES, heads, seed=0, step=0, device=CPU) is None


def test_the_share_grows_as_heads_leave() -> None:
    trainer = make_trainer(HEADS, "joint", "simclr", images_per_head="share")
    for live in (3, 2, 1):
        features, _ = trainer.losses(crops(images=IMAGES).flatten(0, 1), MOMENT)
        assert {len(tokens) for tokens in features.heads_BND.values()} == {2 * (IMAGES // live)}
        assert len(features.base.tokens_BND) == 2 * IMAGES
        trainer.detach(next(iter(trainer.student.heads)))


# what they learn ----------------------------------------------------------------------------------


def without_batch_norm(trainer: Trainer) -> Trainer:
    """The base's projection without its batch norms, which are over all images in any case."""
    for network in (trainer.student, trainer.teacher.network):
        for layers in [m for m in network.projection.modules() if isinstance(m, nn.Sequential)]:
            for index, layer in enumerate(layers):
                if isinstance(layer, nn.BatchNorm1d):
                    layers[index] = nn.Identity()
    return trainer


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("coupling", ["joint", "observe"])
@pytest.mark.parametrize("setting", [3, "share"])
def test_a_head_trains_as_alone_with_its_images_and_the_base_by_the_mean(
    setting: ImagesPerHead, coupling: Coupling, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each head alone, on a batch of just the images that it sees, in float64."""
    together = without_batch_norm(make_trainer(HEADS, coupling, objective, images_per_head=setting))
    views, seen = crops(images=IMAGES), rows(setting, HEADS)
    kind = type(together.objective)
    mask = together.objective.mask(together.student, 2 * IMAGES, torch.Generator().manual_seed(7))
    monkeypatch.setattr(kind, "mask", lambda *_: mask)
    if coupling == "joint":  # what the base keeps of its own is over all images in any case
        monkeypatch.setattr(kind, "kept_of_base", lambda *_: None)
    found = backward(together, views, MOMENT)
    expected: dict[str, list[Tensor]] = {}
    for name in HEADS:
        alone = without_batch_norm(make_trainer([name], coupling, objective))
        part = None if mask is None else mask.unflatten(0, (2, IMAGES))[:, seen[name]].flatten(0, 1)
        monkeypatch.setattr(kind, "mask", lambda *_, part=part: part)
        gradients = backward(alone, views[:, seen[name]], MOMENT)
        own = of_head(gradients, name)
        assert own.keys() == of_head(found, name).keys()
        for weight, gradient in own.items():
            torch.testing.assert_close(found[weight], gradient, rtol=1e-9, atol=1e-12)
        for weight, gradient in of_base(gradients).items():
            expected.setdefault(weight, []).append(gradient)
    if coupling == "joint":
        assert of_base(found).keys() == expected.keys()
        for weight, gradients_of_heads in expected.items():
            mean = torch.stack(gradients_of_heads).sum(dim=0) / len(HEADS)
            torch.testing.assert_close(found[weight], mean, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_base_that_is_observed_does_not_notice(objective: str) -> None:
    some = make_trainer(HEADS, "observe", objective, images_per_head="share")
    every = make_trainer(HEADS, "observe", objective)
    views = crops(images=IMAGES)
    found, expected = (of_base(backward(t, views, MOMENT)) for t in (some, every))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("setting", [2, "share"])
def test_steps_with_the_fewest_images_stay_finite_and_do_not_sync(
    setting: ImagesPerHead, objective: str
) -> None:
    trainer = make_trainer(HEADS, "joint", objective, dtype=torch.float32,
                           images_per_head=setting)  # fmt: skip
    for step in range(3):
        trainer.step(crops(step, dtype=torch.float32, images=6), StepPosition(step, 10))
    stats = trainer.read()
    assert stats.base_sound
    assert all(owner.finite and math.isfinite(owner.loss) for owner in stats.owners.values())
    meta = make_trainer(HEADS, "joint", objective, dtype=torch.float32, device="meta",
                        images_per_head=setting)  # fmt: skip
    meta.step(crops(dtype=torch.float32).to("meta"), StepPosition(0, 10))


# in a run -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"images_per_head": "share", "batch_size": 12}, "leaves 7 heads 1 of 12 images each"),
        ({"images_per_head": 33}, "33 is more than the 32 images of a step"),
    ],
)
def test_too_few_images_are_refused(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        tiny(tmp_path, **settings)


@pytest.mark.parametrize("value", ["1", "0", "-3", "half", "2.5", "", True, 1])
def test_other_values_are_refused_with_what_would_do(value: Any) -> None:
    with pytest.raises(UserError, match="should be all, share or a number of images from 2 on"):
        resolve({"images_per_head": value})


def test_a_search_with_shares_costs_less_and_a_pretraining_shows_its_head_all(
    tmp_path: Path,
) -> None:
    prepared = tiny(tmp_path, images_per_head="share", rungs=2, pruner="none", out=tmp_path / "run")
    assert "each head sees 4 of the 32 images of a step, and more once heads have left" in (
        prepared.notes
    )
    search = Search(prepared)
    search.run()
    run = read_run(search.run_directory)
    assert run.config["images_per_head"] == "share"
    live = [set(at["candidate"]) for _, at in run.rungs.groupby("rung")]
    gflops = run.ranking.set_index("candidate")["gflops"] / prepared.plan.gflops
    halves = [
        1 + sum(gflops[name] for name in names) * head_batch_size("share", 32, len(names)) / 32
        for names in live[:2]
    ]
    cost = run.facts["cost_base_equivalents"]
    if live[0] == live[1]:  # where no head has collapsed in between
        assert cost == pytest.approx(sum(halves) / 2)
    assert cost < 1 + gflops.sum() / 3
    planned = prepare_pretraining({"epochs": 1}, run=run, head="mixer-d1")
    assert planned.setup.config.images_per_head == "all"
    with pytest.raises(UserError, match="--images-per-head does not apply"):
        prepare_pretraining({"images_per_head": "share"}, run=run)


def test_a_forecast_counts_what_heads_see(tmp_path: Path) -> None:
    """Seven heads see 4 of 32 images, 2 s each; once four are live 8, and three 10."""
    found = foresee(tiny(tmp_path, images_per_head="share"), images=4)
    scoring = [5 + 7, 5 + 7, 5 + 4, 5 + 3]
    steps = [0, 2 * (11 + 7 * 2), 2 * (11 + 4 * 2 * 8 / 4), 2 * (11 + 3 * 2 * 10 / 4)]
    entering = 7 * 2 * 32 / 4  # timed on all images, and once: it takes longer than 0.1 s
    expected = [s + t for s, t in zip(scoring, steps, strict=True)]
    assert [rung.seconds for rung in found.rungs] == [expected[0] + entering, *expected[1:]]
    assert found.one_by_one == 7 * (6 * (11 + 2 * 32 / 4) + 4 * 6)
    assert found.memory == 1000e6 + 16 * 8e6 + 100e6 + 7 * 10e6 * 4 / 32
