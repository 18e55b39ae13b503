"""Multi-crop: what the base learns from local crops, where they come from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import headsearch
from headsearch import torchrun
from headsearch.config.settings import Coupling, RunConfig, resolve
from headsearch.config.views import MULTICROP_VIEWS, views_for
from headsearch.data.loader import Loader
from headsearch.errors import UserError
from headsearch.training.multicrop import crops_per_image
from headsearch.training.schedules import StepPosition
from headsearch.training.trainer import Trainer
from helpers.image_files import encoded, open_small, photo, write
from helpers.tiny_training import (
    DYNAMIC_VIT,
    IMAGES,
    crops,
    different_teacher,
    local_crops,
    make_trainer,
)

MOMENT, CPU = StepPosition(3, 10), torch.device("cpu")
LOCAL = 3


def prepared(objective: str, heads: list[str], coupling: Coupling = "joint") -> Trainer:
    trainer = make_trainer(heads, coupling, objective, plan=DYNAMIC_VIT)
    different_teacher(trainer)
    return trainer


def mean_of_pairs(trainer: Trainer, owner: str | None, *, local_alone: bool = False) -> Tensor:
    """ℓ of the base by the definition: one cross-entropy for each target, crop and image.

    Args:
        owner: the head whose teacher gives the targets; None for the base's own.
        local_alone: whether only the predictions from local crops count.
    """
    student, teacher = trainer.student, trainer.teacher.network
    prototypes = [F.normalize(each.projection.prototypes_PZ, dim=-1) for each in (student, teacher)]
    both = crops().flatten(0, 1)

    def pooled(network, images: Tensor) -> Tensor:
        if owner is None:
            return network.base(images).pooled_BD
        return network.heads[owner](network.base(images).maps_BDHW[0]).mean(dim=1)

    module = teacher if owner is None else teacher.heads[owner]
    centre = (student if owner is None else student.heads[owner]).projection.centre
    logits = module.projection(pooled(teacher, both)) @ prototypes[1].T
    temperature = trainer.objective.temperature(MOMENT)
    targets = ((logits - centre) / temperature).softmax(-1).detach().chunk(2)
    views = [*both.chunk(2), *local_crops()]
    predictions = [
        (student.projection(student.base(view).pooled_BD) @ prototypes[0].T / 0.1).log_softmax(-1)
        for view in views
    ]
    pairs = [
        -(target[image] * prediction[image]).sum()
        for t, target in enumerate(targets)
        for v, prediction in enumerate(predictions)
        if t != v and not (local_alone and v < 2)
        for image in range(IMAGES)
    ]
    assert len(pairs) == (2 * (not local_alone) + 2 * LOCAL) * IMAGES
    return torch.stack(pairs).mean()


@pytest.mark.parametrize("coupling", ["joint", "observe"])
@pytest.mark.parametrize("heads", [[], ["mixer"]])
def test_the_loss_is_the_mean_over_all_pairs_of_target_and_other_crop(heads, coupling):
    trainer = prepared("dino", heads, coupling)
    from_head = "mixer" if heads and coupling == "joint" else None
    expected = mean_of_pairs(trainer, from_head) * (0.5 if from_head else 1)
    both, local = crops().flatten(0, 1), local_crops()
    losses = trainer.losses(both, MOMENT, local)[1]
    assert losses.base.item() == pytest.approx(expected.item(), rel=1e-9)
    if heads:  # what a head learns from does not depend on local crops
        alone = prepared("dino", heads, coupling).losses(both, MOMENT)[1]
        assert losses.heads["mixer"].item() == alone.heads["mixer"].item()


def test_ibot_masks_no_local_crop():
    both, local = crops().flatten(0, 1), local_crops()
    with_local, without = (
        prepared("ibot", []).losses(both, MOMENT, x)[1].base for x in (local, None)
    )
    trainer = prepared("ibot", [])
    with trainer.step_context():
        patches = trainer.objective.kept_of_base(trainer.outputs(both, MOMENT))
    assert patches is not None
    of_local = mean_of_pairs(prepared("ibot", []), None, local_alone=True)
    expected = (without - patches + LOCAL * of_local) / (1 + LOCAL) + patches
    assert with_local.item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("objective", ["dino", "ibot"])
def test_a_step_does_not_leave_its_device(objective):
    trainer = make_trainer(["mixer"], "joint", objective, dtype=torch.float32, device="meta",
                           plan=DYNAMIC_VIT)  # fmt: skip
    local = local_crops(dtype=torch.float32).to("meta")
    trainer.step(crops(dtype=torch.float32).to("meta"), StepPosition(0, 10), local)


@pytest.fixture(params=["photos", "small"])
def images(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    size = (48, 40) if request.param == "photos" else (32, 32)
    files = {f"{n}.png": encoded(photo(n, *size)) for n in range(80)}
    return write(tmp_path / "set", files)


def opened(path: Path, **settings: object):
    config = RunConfig(batch_size=8, lr=1e-3, objective="dino", **settings)  # type: ignore[arg-type]
    return open_small(path, image_size=32).train, config


def test_local_crops_come_from_the_seed_and_the_step(images: Path):
    train, config = opened(images, views="multicrop,local_views=3")
    loader = Loader(train, config, CPU)
    first, later = loader.views(0), loader.views(1)
    assert first.crops.shape == (2, 8, 3, 32, 32)
    assert first.local is not None
    assert later.local is not None
    assert first.local.shape == (3, 8, 3, 16, 16)
    assert not torch.equal(first.local[0], first.local[1])
    assert not torch.equal(first.local, later.local)
    again = Loader(train, config, CPU).views(0)
    assert again.local is not None
    assert torch.equal(first.local, again.local)
    # The two crops do not depend on whether there are local ones.
    without = Loader(train, *(opened(images, views="multicrop,local_views=0")[1:]), CPU)
    assert torch.equal(without.views(0).crops, first.crops)
    assert without.views(0).local is None


def test_ranks_see_together_what_one_process_sees(images: Path, monkeypatch: pytest.MonkeyPatch):
    train, config = opened(images, views="multicrop,local_views=3")
    whole = Loader(train, config, CPU).views(2).local
    assert whole is not None
    monkeypatch.setattr(torchrun, "count", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(torchrun, "rank", lambda rank=rank: rank)
        local = Loader(train, config, CPU).views(2).local
        assert local is not None
        parts.append(local)
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_local_crops_show_small_parts():
    views = views_for("multicrop", "dino", 224)
    assert views == MULTICROP_VIEWS["dino"]
    assert (views.local_views, views.local_side(224), views.local_scale) == (10, 96, (0.05, 0.25))
    assert views.of_local_views.blur == (0.5,)
    assert views.of_local_views.solarize == (0.0,)
    assert crops_per_image(views, 224) == pytest.approx(2 + 10 * (96 / 224) ** 2)
    assert resolve({"views": "multicrop", "objective": "ibot"}).views == "multicrop"


SMALL_RUN = {
    "images": 64, "eval_images": 64, "bank_images": 64, "epochs": 1, "batch_size": 16, "rungs": 1,
    "lr": 1e-3, "image_size": 32, "patch_size": 8, "trials": 3,
}  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"objective": "simclr", "views": "multicrop"}, "for the objectives dino and ibot"),
        ({"objective": "simclr", "views": "local_views=2"}, "need the objective dino or ibot"),
        ({"views": "multicrop", "images_per_head": 4}, "cannot be combined with local crops"),
        ({"views": "multicrop,local_size=12"}, "a multiple of the patch size, 8"),
        ({"views": "multicrop", "base": "cait_xxs24_224"}, "no local crops of 16 pixels"),
        ({"views": "multicrop,local_views=99"}, "a number from 0 to 32"),
        ({"views": "multicrop,local_scale=0.5/0.2"}, "low <= high"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path: Path, settings, words):
    out = tmp_path / "run"
    with pytest.raises(UserError, match=words):
        headsearch.search(
            **{"base": "vit_mini", "objective": "dino", "out": out, **SMALL_RUN, **settings}
        )
    assert not out.exists()


@pytest.mark.parametrize("base", ["vit_mini", "test_resnet"])
def test_a_search_with_local_crops(tmp_path: Path, base):
    patch = {} if base == "vit_mini" else {"patch_size": None}
    result = headsearch.search(
        **SMALL_RUN | patch,
        base=base, objective="dino", views="multicrop,local_views=2", out=tmp_path / "run",
    )  # fmt: skip
    assert set(result.ranking["state"]) == {"complete"}
    assert "local_views=2," in (tmp_path / "run" / "config.yaml").read_text()


def test_local_crops_are_drawn_apart_from_the_two_crops(images: Path):
    """With the same area and size, and nothing else done to them, they would else be the same."""
    plain = "jitter_probability=0,grayscale=0,blur=0,solarize=0,flip=0"
    same = "crop_scale=0.1/0.2,local_scale=0.1/0.2,local_size=32,local_views=2"
    train, config = opened(images, views=f"multicrop,{plain},{same}")
    found = Loader(train, config, CPU).views(0)
    assert found.local is not None
    assert found.local.shape == found.crops.shape
    assert not torch.equal(found.local, found.crops)
