"""Bases: one interface over timm's models, fitted to the images."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from headsearch.errors import UserError
from headsearch.models.bases import (
    ALIASES,
    OWN_FAMILY,
    Base,
    base_arguments,
    plan_base,
    pretrained_weights,
    repeated_blocks,
)
from headsearch.models.bases.names import ALIAS_ARGUMENTS
from headsearch.models.bases.patches import PatchProduct
from headsearch.models.heads import FAMILIES

THIN = {"depth": 2, "embed_dim": 48, "num_heads": 3}
THIN_SWIN = {"depths": (1, 1), "embed_dim": 24, "num_heads": (1, 2)}
THIN_STAGES = {"depths": (1, 1, 2, 1), "embed_dim": 24}

ARCHITECTURES: list[tuple[str, int, dict[str, Any]]] = [
    # plain transformers: class tokens, distillation tokens, registers, rotary positions, none
    ("test_vit", 32, {}),
    ("vit_t", 32, {"depth": 2}),
    ("vit_t", 32, {"depth": 2, "global_pool": "avg", "class_token": False}),
    ("deit_tiny_distilled_patch16_224", 64, {"depth": 2}),
    ("vit_small_patch14_reg4_dinov2", 56, THIN),
    ("vit_small_patch16_dinov3", 64, THIN),
    ("beit_base_patch16_224", 64, THIN),
    ("eva02_tiny_patch14_224", 56, {"depth": 2}),
    ("samvit_base_patch16_224", 64, THIN),
    ("naflexvit_base_patch16_gap", 64, THIN),
    ("vit_tiny_r_s16_p8_224", 64, {"depth": 2}),
    # transformers that pool by attention, mix channels, or narrow their map
    ("cait_xxs24_224", 64, {"depth": 2}),
    ("xcit_nano_12_p8_224", 64, {"depth": 2}),
    ("pit_ti_224", 128, {}),
    ("swin_tiny_patch4_window7_224", 64, THIN_STAGES),
    ("swinv2_tiny_window8_256", 64, THIN_STAGES),
    ("hiera_tiny_224", 128, {"embed_dim": 24, "stages": (1, 1, 1, 1)}),
    ("pvt_v2_b0", 128, {}),
    ("coat_lite_tiny", 128, {}),
    ("tiny_vit_5m_224", 128, {}),
    ("coatnet_pico_rw_224", 128, {}),
    ("maxvit_rmlp_pico_rw_256", 128, {"depths": (1, 1, 1, 1)}),
    ("edgenext_xx_small", 128, {}),
    ("efficientvit_b0", 128, {}),
    # convolutions
    ("test_convnext", 32, {}),
    ("convnextv2_atto", 128, {}),
    ("test_resnet", 32, {}),
    ("resnetv2_18", 64, {}),
    ("regnetx_002", 128, {}),
    ("test_efficientnet", 64, {}),
    ("mobilenetv3_small_050", 128, {}),
    ("lcnet_035", 128, {}),
    ("fastvit_t8", 128, {}),
    ("repvit_m1", 128, {}),
    ("starnet_s050", 128, {}),
    ("hgnetv2_b0", 128, {}),
    ("densenet121", 128, {"block_config": (2, 2, 2, 2)}),
    ("test_nfnet", 64, {}),
    ("test_mambaout", 128, {}),
    ("focalnet_tiny_srf", 128, {}),
    # MLPs and pooling
    ("mixer_s32_224", 128, {}),
    ("resmlp_12_224", 64, {}),
    ("gmlp_ti16_224", 64, {}),
    ("poolformer_s12", 128, {}),
    ("caformer_s18", 128, {}),
]


@pytest.mark.parametrize(("name", "size", "arguments"), ARCHITECTURES)
def test_a_base_keeps_what_its_plan_says(name: str, size: int, arguments: dict[str, Any]) -> None:
    plan = plan_base(name, size, arguments=arguments)
    base = plan.build().train()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    drawn = torch.get_rng_state()
    output = base(images, feature_indices=range(len(plan.stages)))

    for feature_index, stage in enumerate(plan.stages):
        assert output.maps_BDHW[feature_index].shape == (2, stage.dim, *stage.grid)
    assert output.tokens_BND.shape == (2, plan.grid[0] * plan.grid[1], plan.dim)
    assert output.pooled_BD.shape == (2, plan.dim)
    assert all(t.isfinite().all() for t in (*output.maps_BDHW.values(), *output[1:3]))
    assert torch.equal(torch.get_rng_state(), drawn), "nothing in a base is random"

    (output.maps_BDHW[0].square().mean() + output.pooled_BD.square().mean()).backward()
    reached = [p.grad is not None for p in base.trunk.parameters()]
    assert sum(reached) > 0.9 * len(reached)
    assert next(base.trunk.parameters()).grad.any()

    mask_BHW = torch.zeros(2, *plan.grid, dtype=torch.bool)
    mask_BHW[:, 0] = True
    with torch.no_grad():
        base, images = base.eval().double(), images.double()  # some blocks start almost closed
        seen, masked = base(images), base(images, mask_BHW)
        for whole, part in zip(
            (seen.maps_BDHW[0], *seen[1:3]), (masked.maps_BDHW[0], *masked[1:3]), strict=True
        ):
            assert (whole - part).norm() > 1e-9 * whole.norm()
        # What a masked patch shows must not matter: the mask hides it.
        if base.mask_token is not None and "_r_" not in name:
            hidden = images.clone()
            hidden[:, :, : size // plan.grid[0]] = 3.0
            torch.testing.assert_close(base(hidden, mask_BHW).pooled_BD, masked.pooled_BD)


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
        (("convnext_tini", 32), ["unknown base", "'convnext_tiny'"]),
        (("timm/resnet18", 32), ["unknown base 'timm/resnet18'", "did you mean"]),
        (("vit_small_patch16_224.augreg", 32), ["tag of weights", "did you mean 'augreg_in1k'"]),
        (("test_vit4.x", 32), ["weights", "'x'"]),
        (("poolformer_s12", 64), ["2×2", "4×4", "larger images"]),
        (("levit_128s", 64), ["tokens", "larger images"]),
        (("efficientformer_l1", 64), ["made for images of 224 pixels", "--image-size 224"]),
    ],
)
def test_a_base_that_cannot_serve_says_why(arguments: tuple[str, int], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        plan_base(*arguments)
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


def test_a_model_that_takes_no_patch_size_says_so() -> None:
    for name in ("test_resnet", "mixer_s32_224"):
        with pytest.raises(UserError, match=rf"base '{name}' takes no --patch-size.*leave it out"):
            plan_base(name, 128, patch_size=4)


def test_base_args_are_values_and_reach_the_model_and_the_plan() -> None:
    arguments = base_arguments("vit_t", "depth=2, embed_dim=96,num_heads=3,qkv_bias=false")
    assert arguments == {"depth": 2, "embed_dim": 96, "num_heads": 3, "qkv_bias": False}
    plan = plan_base("vit_t", 32, arguments=arguments)
    assert (plan.dim, len(plan.stages)) == (96, 2)
    assert arguments.items() <= plan.arguments.items()
    assert plan.build().trunk.blocks[0].attn.qkv.bias is None
    assert "depth 2" in str(plan)
    stages = base_arguments("test_convnext", "depths=(1, 1, 2, 1),act_layer=gelu_tanh")
    assert stages == {"depths": (1, 1, 2, 1), "act_layer": "gelu_tanh"}
    assert base_arguments("vit_t", None) == {}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("vit_t", "dept=6", ["no argument 'dept'", "did you mean 'depth'"]),
        ("poolformer_s12", "embed_dims=(8,8)", ["no argument 'embed_dims'", "'dims'"]),
        ("mixer_s32_224", "num_blocks=2", ["sets num_blocks itself"]),
        ("vit_t", "num_heads=0", ["num_heads=0", "zero"]),
        ("vit_t", "depth", ["'depth'", "KEY=VALUE"]),
        ("vit_t", "depth=1,depth=2", ["depth", "twice"]),
        ("vit_t", "img_size=64", ["--image-size"]),
        ("vit_t", "patch_size=8", ["--patch-size"]),
        ("vit_t", "checkpoint_path=x.pth", ["--base-weights"]),
        ("vit_t", "drop_path_rate=0.1", ["nothing in a base is random"]),
    ],
)
def test_base_args_that_cannot_be_taken_say_why(name: str, text: str, words: list[str]) -> None:
    with pytest.raises(UserError, match="--base-args") as error:
        base_arguments(name, text)
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


def test_a_patch_that_leaves_too_small_a_map_is_refused() -> None:
    with pytest.raises(UserError, match="--patch-size 16"):
        plan_base("vit_t", 32, patch_size=16)


def test_every_alias_is_a_timm_model_and_every_own_family_exists() -> None:
    assert all(timm.is_model(name) for name in ALIASES.values())
    assert set(OWN_FAMILY.values()) <= set(FAMILIES)


def test_an_alias_sets_arguments_that_others_override() -> None:
    plan = plan_base("vit_mini", 32)
    assert (plan.dim, len(plan.build().trunk.blocks)) == (96, 6)
    other = plan_base("vit_mini", 32, arguments=base_arguments("vit_mini", "depth=2"))
    assert (other.dim, len(other.build().trunk.blocks)) == (96, 2)
    assert ALIAS_ARGUMENTS.keys() <= ALIASES.keys()
    with pytest.raises(UserError, match="there are no pretrained weights of vit_mini"):
        pretrained_weights("vit_mini")


def test_the_last_layers_of_an_efficientnet_are_left_as_they_are_and_exported() -> None:
    """It ends by widening its map for the classifier: heads meet the map before that."""
    plan = plan_base("test_efficientnet", 64)
    base = plan.build()
    assert plan.dim == base.trunk.feature_info[-1]["num_chs"] < base.trunk.num_features
    output = base(torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(output.pooled_BD, output.maps_BDHW[0].mean((2, 3)))
    assert "conv_head.weight" in base.weights()


def test_the_control_own_means_a_family_that_is_built_like_the_base() -> None:
    size = {"mixer_s32_224": 128, "gmlp_ti16_224": 64, "resmlp_12_224": 64, "convformer_s18": 128}
    families = [plan_base(name, pixels).own_family for name, pixels in size.items()]
    assert families == ["mixer", "gmlp", "resmlp", None]


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


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("vit_t", 12), ("convnext_t", 18), ("swin_t", 12), ("resnet18", 8), ("mixer_s32_224", 8)],
)
def test_the_blocks_that_a_base_repeats_are_found(name: str, blocks: int) -> None:
    with torch.device("meta"):
        trunk = plan_base(name, 224).build().trunk
    found = repeated_blocks(trunk)
    assert len(found) == blocks
    assert not any(inner in found for block in found for inner in block.children())


@pytest.mark.parametrize(("name", "size", "arguments"), [
    ("vit_t", 32, {"depth": 1}), ("vit_t", 36, {"depth": 1}), ("swin_t", 32, THIN_SWIN),
])  # fmt: skip
def test_patches_by_products_are_those_of_the_convolution(
    name: str, size: int, arguments: dict[str, Any]
) -> None:
    """Forward and gradients; the names of the weights stay."""
    plan = plan_base(name, size, patch_size=4, arguments=arguments)
    base = plan.build().double()
    product = base.trunk.patch_embed.proj
    assert type(product) is PatchProduct
    convolution = torch.nn.Conv2d(3, product.out_channels, 4, 4).double()
    convolution.load_state_dict(product.state_dict())
    images = torch.randn(3, 3, size + 3, size + 1, dtype=torch.float64)
    found = {}
    for module in (product, convolution):
        leaf = images.clone().requires_grad_()
        output = module(leaf)
        output.pow(3).sum().backward()
        found[module] = [output, leaf.grad, module.weight.grad, module.bias.grad]
    for ours, expected in zip(found[product], found[convolution], strict=True):
        torch.testing.assert_close(ours, expected)


def test_only_patches_that_do_not_overlap_are_made_by_products() -> None:
    """PVT's overlap, ConvNeXt's stem is no embedding of patches."""
    for name in ("pvt_v2_b0", "convnext_t"):
        base = Base(timm.create_model(ALIASES.get(name, name), num_classes=0))
        assert not any(isinstance(module, PatchProduct) for module in base.modules())
