"""Recipes: published values are set, flags override them, and a step follows the formulas."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from headsearch.config.presets import DEFAULT_LR, PRESETS
from headsearch.config.recipes import RECIPES
from headsearch.config.settings import RunConfig, resolve
from headsearch.data import ViewSettings, image_domain
from headsearch.data.loader import Loader
from headsearch.errors import UserError
from headsearch.study.setup import SearchSetup, prepare
from headsearch.training.objectives.ibot import Ibot
from headsearch.training.schedules import StepPosition
from headsearch.training.trainer import Trainer
from helpers.objective_formulas import by_hand, made, prepared
from helpers.tiny_training import (
    HEADS,
    TINY_VIT,
    backward,
    crops,
    features_of,
    gradients_of,
    losses_of,
    make_trainer,
)

PUBLISHED = ["hssl-vit-s", "hssl-vit-b"]
STEPS = 1000  # ten an epoch


# settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_sets_every_published_figure(name: str) -> None:
    config = resolve({"recipe": name})
    assert config.base == name.removeprefix("hssl-").replace("-", "_")
    assert (config.objective, config.coupling) == ("ibot", "joint")
    assert (config.epochs, config.batch_size, config.image_size) == (100, 256, 224)
    assert config.images == 0  # all there are
    assert config.lr == pytest.approx(0.00075)
    assert config.weight_decay == 0.04
    recipe = RECIPES[name]
    assert dict(recipe.sizes_for("ibot")) == {
        "hidden": 2048,
        "bottleneck": 256,
        "prototypes": 8192,
    }
    assert dict(recipe.sizes_for("mocov3")) == {}


def test_preset_loses_to_recipe_and_recipe_to_config_file_and_flag(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("recipe: hssl-vit-b\nweight-decay: 0.1\nepochs: 8\n")
    config = resolve({"epochs": 7, "budget": "standard"}, file)
    assert config.trials == PRESETS["standard"]["trials"]  # of which the recipe says nothing
    assert (config.batch_size, config.weight_decay, config.epochs) == (256, 0.1, 7)
    assert resolve({"base": "vit_t"}, file).base == "vit_t"


def test_the_learning_rate_follows_the_batch_size_unless_it_is_given(tmp_path: Path) -> None:
    assert resolve({"recipe": "hssl-vit-b", "batch_size": "64"}).lr == pytest.approx(0.00075 / 4)
    assert resolve({"recipe": "hssl-vit-b", "batch_size": 64, "lr": 0.01}).lr == 0.01
    assert resolve({"budget": "standard"}).lr == DEFAULT_LR
    for own in ({"epochs": 50}, {"batch_size": 512}):  # the quick one is for its number of steps
        assert resolve(own).lr == DEFAULT_LR
    assert resolve({}).lr is None  # it depends on the base's width


def test_an_unknown_recipe_is_refused_and_the_help_names_all_recipes() -> None:
    with pytest.raises(UserError, match="unknown recipe 'hssl-vit-l'; did you mean 'hssl-vit-"):
        resolve({"recipe": "hssl-vit-l"})
    text = str(RunConfig.model_fields["recipe"].description)
    assert all(name in text for name in RECIPES)


# a step, from the formulas alone ------------------------------------------------------------------


def half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def published(step: int) -> dict[str, float]:
    """The scheduled values at a step of 1000, from DESIGN.md's figures for 100 epochs."""
    share, peak = step / 999, 0.00075 * 6 / 256
    return {
        "lr": peak * (step + 1) / 101
        if step < 100
        else half_cosine(peak, 2e-6, (step - 100) / 899),
        "weight_decay": half_cosine(0.04, 0.4, share),
        "momentum": half_cosine(0.996, 1, share),
    }  # fmt: skip


def published_trainer(heads: list[str], recipe: str = "hssl-vit-b", **settings: Any) -> Trainer:
    return prepared("ibot", heads, recipe=recipe, batch_size=6, **settings)


@pytest.mark.parametrize("step", [0, 29, 30, 99, 100, 500, 999])
def test_a_step_of_the_published_recipe_is_that_of_the_formulas(step: int) -> None:
    position, expected = StepPosition(step, STEPS), published(step)
    reference = published_trainer(["convnext"])
    terms = by_hand(reference, crops(), position)
    loss = 0.5 * (terms.toward + terms.own_head) + terms.kept
    gradients = gradients_of(reference, loss)
    with torch.no_grad():
        centres = centres_by_hand(reference)

    trainer = published_trainer(["convnext"])
    trainer.step(crops(), position)

    stats = trainer.read().owners
    assert sum(owner.loss for owner in stats.values()) == pytest.approx(loss.item(), rel=1e-5)
    old_teacher = dict(reference.teacher.network.named_parameters())
    new_teacher = dict(trainer.teacher.network.named_parameters())
    updated = dict(trainer.student.named_parameters())
    for name, old in reference.student.named_parameters():
        new = old.detach()
        frozen = name == "projection.prototypes_PZ" and step < 30
        if name in gradients and not frozen:
            g = gradients[name]
            g = g * min(1.0, 0.3 / (float(g.norm()) + 1e-6))
            decay = expected["weight_decay"] if old.ndim > 1 else 0.0
            new = new * (1 - expected["lr"] * decay) - expected["lr"] * g / (g.abs() + 1e-8)
        torch.testing.assert_close(updated[name].detach(), new, rtol=1e-6, atol=1e-8, msg=name)
        m = expected["momentum"]
        torch.testing.assert_close(
            new_teacher[name], m * old_teacher[name] + (1 - m) * new, rtol=1e-6, atol=1e-8, msg=name
        )
    for name, buffer in trainer.student.named_buffers():
        torch.testing.assert_close(buffer, centres[name], rtol=1e-6, atol=1e-9, msg=name)


def centres_by_hand(trainer: Trainer) -> dict[str, Tensor]:
    """0.9 of the old centre plus 0.1 of the teacher's mean logits over whole crops."""
    student, teacher = trainer.student, trainer.teacher.network
    whole = made(teacher, crops().flatten(0, 1), None)
    prototypes = teacher.projection.prototypes_PZ
    prototypes = prototypes / prototypes.norm(dim=1, keepdim=True)
    (head,) = teacher.heads
    moved = {}
    for name, projection, features in (
        ("projection.centre", teacher.projection, whole.base_pooled),
        ("projection.patch_centre", teacher.projection, whole.base_tokens.flatten(0, 1)),
        (f"_heads.{head}.projection.centre", teacher.heads[head].projection, whole.head_pooled),
    ):
        z = projection.projector(features)
        logits = (z / z.norm(dim=1, keepdim=True)) @ prototypes.T
        moved[name] = 0.9 * student.get_buffer(name) + 0.1 * logits.mean(dim=0)
    return moved


def test_published_counts_of_epochs_are_shares_of_a_run_of_any_length() -> None:
    trainer = published_trainer(["attention"])
    for step, frozen in ((5, True), (6, False)):  # 3 % of 200 steps
        before = trainer.student.projection.prototypes_PZ.detach().clone()
        trainer.step(crops(step), StepPosition(step, 200))
        assert torch.equal(trainer.student.projection.prototypes_PZ.detach(), before) == frozen


def test_weight_decay_moves_on_matrices_and_stays_off_biases_and_norms() -> None:
    trainer = published_trainer(["attention"])
    trainer.step(crops(), StepPosition(400, STEPS))
    expected = published(400)["weight_decay"]
    for group in trainer.optimizer.param_groups:
        matrices = {parameter.ndim > 1 for parameter in group["params"]}
        assert len(matrices) == 1
        assert group["weight_decay"] == pytest.approx(expected if matrices == {True} else 0.0)
    short = make_trainer(["attention"])
    short.step(crops(), StepPosition(400, STEPS))
    assert {group["weight_decay"] for group in short.optimizer.param_groups} == {0.0, 0.05}


# drop path ----------------------------------------------------------------------------------------


def rates(module: nn.Module) -> list[float]:
    return [m.drop_prob for m in module.modules() if isinstance(m, DropPath) and m.drop_prob]


def test_only_the_students_base_drops_paths_up_to_the_rate_at_its_last_block() -> None:
    trainer = make_trainer(list(HEADS), "joint", "ibot", drop_path=0.1)
    assert rates(trainer.student.base) == pytest.approx([0.1, 0.1])  # twice in block 2 of 2
    assert rates(trainer.student) == rates(trainer.student.base)
    assert rates(trainer.teacher.network) == []
    plain = make_trainer(list(HEADS), "joint", "ibot")
    assert rates(plain.student) == []
    for one, other in zip(trainer.student.parameters(), plain.student.parameters(), strict=True):
        assert torch.equal(one, other)


def test_dropped_paths_depend_on_seed_and_step_alone() -> None:
    def seen(heads: list[str], step: int, seed: int = 0) -> Tensor:
        trainer = make_trainer(heads, "joint", "ibot", drop_path=0.5)
        trainer.seed = seed
        torch.rand(step)
        return features_of(trainer, crops(), StepPosition(step, 10)).base.pooled_BD

    assert torch.equal(seen(["mixer"], 4), seen(list(HEADS), 4))
    assert not torch.equal(seen(["mixer"], 4), seen(["mixer"], 5))
    assert not torch.equal(seen([], 4), seen([], 4, seed=1))


def test_dropping_paths_leaves_the_teachers_targets_and_outer_randomness_alone() -> None:
    dropping = make_trainer(["mixer"], "joint", "mocov3", drop_path=0.5)
    plain = make_trainer(["mixer"], "joint", "mocov3")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    lost = losses_of(dropping, crops(), StepPosition(0, 10)).total
    assert torch.equal(before, torch.get_rng_state())
    assert lost != losses_of(plain, crops(), StepPosition(0, 10)).total
    for trainer in (dropping, plain):
        trainer.student.eval()
    assert torch.equal(
        dropping.student.base(crops()[0]).pooled_BD, plain.student.base(crops()[0]).pooled_BD
    )


def test_a_step_with_dropped_paths_runs_on_the_device_alone() -> None:
    trainer = make_trainer(["mixer"], "joint", "ibot", dtype=torch.float32, device="meta",
                           drop_path=0.1, recipe="hssl-vit-s")  # fmt: skip
    trainer.step(crops(dtype=torch.float32).to("meta"), StepPosition(0, 10))
    assert backward(trainer, crops(dtype=torch.float32).to("meta"), StepPosition(1, 10))


def test_a_base_without_paths_to_drop_is_refused() -> None:
    plan = replace(TINY_VIT, name="densenet121", timm_name="densenet121", arguments={})
    with torch.device("meta"), pytest.raises(UserError, match=r"densenet121.* no paths to drop"):
        plan.build(drop_path=0.1)


# in a run -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> SearchSetup:
    out = tmp_path_factory.mktemp("runs") / "recipe"
    return prepare(
        resolve({
            "recipe": "hssl-vit-s", "base": "test_vit", "image_size": 32, "images": 32,
            "batch_size": 16, "epochs": 2, "rungs": 1, "eval_images": 64, "bank_images": 64,
            "device": "cpu", "out": out,
        })
    )  # fmt: skip


def test_a_run_takes_sizes_drop_path_and_crops_from_its_recipe(
    small_run: SearchSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert small_run.training.objective == Ibot(hidden=2048, bottleneck=256, prototypes=8192)
    assert any("hssl-vit-s" in note for note in small_run.notes)
    assert max(rates(small_run.training.new_trainer("joint").student)) == pytest.approx(0.1)

    drawn: list[ViewSettings] = []

    def watched(
        images: Tensor, generator: torch.Generator, settings: ViewSettings, *more: object
    ) -> Tensor:
        drawn.append(settings)
        return images

    monkeypatch.setattr(image_domain, "make_views", watched)
    Loader(small_run.data.train, small_run.config, torch.device("cpu")).crops(0)
    assert drawn[0].crop_scale == (0.14, 1.0)
