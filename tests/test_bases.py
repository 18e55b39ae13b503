"""Bases: one interface over timm's models, fitted to the images."""

from __future__ import annotations

import pytest
import timm
import torch

from headsearch.bases import ALIASES, OWN_FAMILY, Base, plan_base
from headsearch.errors import UserError
from headsearch.heads import FAMILIES

SMALL = ["test_vit", "test_convnext", "test_resnet", "vit_t", "mixer_s32_224"]


@pytest.mark.parametrize("name", SMALL)
def test_a_base_gives_a_map_and_pooled_features_of_the_planned_shape(name: str) -> None:
    size = 32 if name != "mixer_s32_224" else 128
    plan = plan_base(name, size)
    base = plan.build()
    output = base(torch.randn(2, 3, size, size))
    assert output.maps_BDHW[0].shape == (2, plan.dim, *plan.grid)
    assert output.pooled_BD.shape == (2, plan.dim)
    (output.maps_BDHW[0].square().mean() + output.pooled_BD.square().mean()).backward()
    reached = [p.grad is not None for p in base.parameters()]  # some inits make them 0 at first
    assert sum(reached) > 0.9 * len(reached)
    assert base.trunk.get_parameter(next(iter(dict(base.trunk.named_parameters())))).grad.any()


def test_the_map_is_taken_before_the_final_norm_and_the_pooled_features_after_it() -> None:
    plan = plan_base("vit_t", 32)
    base = plan.build().eval()
    with torch.no_grad():
        base.trunk.norm.weight.mul_(7).add_(1)
        images = torch.randn(2, 3, 32, 32)
        output = base(images)
        final = base.trunk.forward_features(images)
        tokens = output.maps_BDHW[0].flatten(2).transpose(1, 2)
        torch.testing.assert_close(base.trunk.norm(tokens), final[:, 1:], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(output.pooled_BD, final[:, 0])


@pytest.mark.parametrize("name", ["vit_t", "vit_s", "vit_b", "convnext_t", "resnet50"])
def test_small_images_get_a_map_of_four_by_four_or_more(name: str) -> None:
    plan = plan_base(name, 32)
    assert min(plan.grid) >= 4
    assert f"{plan.grid[0]}×{plan.grid[1]}" in str(plan)
    assert plan.own_family in FAMILIES


def test_an_affordable_map_is_eight_by_eight_and_a_large_image_keeps_the_models_own_patch() -> None:
    assert plan_base("vit_s", 32, accelerator=False).grid == (4, 4)
    assert plan_base("vit_s", 32, accelerator=True).grid == (8, 8)
    assert plan_base("test_vit", 32, accelerator=False).grid == (8, 8)
    own = plan_base("vit_s", 224)
    assert own.grid == (14, 14)
    assert own.arguments["patch_size"] == 16
    assert plan_base("convnext_t", 224).arguments == {}


def test_parameters_and_gflops_are_those_of_the_model() -> None:
    plan = plan_base("vit_t", 224)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    assert plan.params_m == pytest.approx(sum(p.numel() for p in model.parameters()) / 1e6)
    # timm lists 1.3 billion multiply-adds with attention (1.1 in linear layers) for this model.
    assert 2 * 1.05 < plan.gflops < 2 * 1.4


def test_a_patch_size_that_is_asked_for_is_taken() -> None:
    assert plan_base("vit_t", 32, patch_size=4).grid == (8, 8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("vit_smal", 32), ["unknown base 'vit_smal'", "did you mean"]),
        (("poolformer_s12", 64), ["2×2", "4×4", "larger images"]),
    ],
)
def test_a_base_that_cannot_serve_says_why(arguments: tuple[str, int], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        plan_base(*arguments)
    assert all(word in str(error.value) for word in words)


def test_a_patch_that_leaves_too_small_a_map_is_refused() -> None:
    with pytest.raises(UserError, match="--patch-size 16"):
        plan_base("vit_t", 32, patch_size=16)


def test_every_alias_is_a_timm_model_and_every_own_family_exists() -> None:
    assert all(timm.is_model(name) for name in ALIASES.values())
    assert set(OWN_FAMILY.values()) <= set(FAMILIES)


@pytest.mark.parametrize("name", ["swin_t", "swinv2_tiny_window8_256", "vit_t"])
def test_nothing_in_a_base_is_random(name: str) -> None:
    """Some models drop paths by default; a base must not depend on who drew numbers before it."""
    timm_name = ALIASES.get(name, name)
    with torch.device("meta"):
        base = Base(timm.create_model(timm_name, num_classes=0)).train()
    for module in base.modules():
        assert getattr(module, "drop_prob", 0.0) in (0.0, None), module
        if isinstance(module, torch.nn.Dropout):
            assert module.p == 0
