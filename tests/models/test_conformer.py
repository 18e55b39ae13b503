"""The conformer: its block against formulas written out, and the base through plan and search."""

from __future__ import annotations

import math

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from torch import nn

from headsearch.config.input_shape import InputShape
from headsearch.errors import UserError
from headsearch.models.bases import base_arguments, plan_base, registered_by
from headsearch.models.bases.conformer import Conformer, ConformerBlock
from headsearch.models.bases.names import own_family
from headsearch.models.space import find_space, load_space

Array = NDArray[np.float64]
CLIP = InputShape(1, 24, 64, sequence=True)
SMALL = "depth=2,dim=24,num_heads=3,kernel_size=5"


def drawn(module: nn.Module) -> nn.Module:
    """The module in float64, with no weight at 0 or 1."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.double().eval()


def norm(x_ND: Array, module: nn.LayerNorm) -> Array:
    centred = x_ND - x_ND.mean(1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(1, keepdims=True) + module.eps)
    return scaled * module.weight.detach().numpy() + module.bias.detach().numpy()


def linear(x_ND: Array, module: nn.Linear) -> Array:
    return x_ND @ module.weight.detach().numpy().T + module.bias.detach().numpy()


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def swish(x: Array) -> Array:
    return x * sigmoid(x)


def fed_forward(x_ND: Array, module: nn.Module) -> Array:
    return linear(swish(linear(norm(x_ND, module.norm), module.fc1)), module.fc2)


def attended(x_ND: Array, module: nn.Module) -> Array:
    count, dim = x_ND.shape
    heads = module.num_heads
    query, key, value = np.split(linear(norm(x_ND, module.norm), module.qkv), 3, axis=1)
    bias = module.bias.detach().numpy()
    out = np.zeros_like(x_ND)
    for head in range(heads):
        own = slice(head * dim // heads, (head + 1) * dim // heads)
        for i in range(count):
            scores = np.array([
                query[i, own] @ key[j, own] / math.sqrt(dim / heads) + bias[j - i + count - 1, head]
                for j in range(count)
            ])  # fmt: skip
            weights = np.exp(scores - scores.max())
            out[i, own] = weights / weights.sum() @ value[:, own]
    return linear(out, module.proj)


def convolved(x_ND: Array, module: nn.Module) -> Array:
    first, second = np.split(linear(norm(x_ND, module.norm), module.gated), 2, axis=1)
    gated = first * sigmoid(second)
    kernel_DK = module.depthwise.weight.detach().numpy()[:, 0]
    width = kernel_DK.shape[1]
    padded = np.pad(gated, ((width // 2, width // 2), (0, 0)))
    mixed = np.stack([(padded[i : i + width] * kernel_DK.T).sum(0) for i in range(len(x_ND))])
    return linear(swish(norm(mixed, module.norm_inside)), module.pointwise)


def test_a_block_is_that_of_its_formula() -> None:
    block = drawn(ConformerBlock(dim=12, num_heads=3, length=7, kernel_size=5, ratio=2, drop=0))
    x = np.random.default_rng(0).standard_normal((7, 12))
    found = block(torch.tensor(x)[None])[0].detach().numpy()
    x = x + 0.5 * fed_forward(x, block.before)
    x = x + attended(x, block.attention)
    x = x + convolved(x, block.convolution)
    x = x + 0.5 * fed_forward(x, block.after)
    np.testing.assert_allclose(found, norm(x, block.norm), rtol=1e-10, atol=1e-10)


def test_maps_are_those_of_the_blocks_and_the_feature_is_the_mean_token() -> None:
    model = drawn(Conformer((24, 64), (24, 4), depth=3, dim=24, num_heads=3, num_classes=5))
    clips = torch.randn(2, 1, 24, 64, generator=torch.Generator().manual_seed(0)).double()
    tokens, maps = model.forward_intermediates(clips)
    assert [tuple(each.shape) for each in maps] == [(2, 24, 1, 16)] * 3
    torch.testing.assert_close(maps[-1][:, :, 0].transpose(1, 2), tokens)
    (second,) = model.forward_intermediates(clips, indices=[-2], intermediates_only=True)
    torch.testing.assert_close(second, maps[1])
    torch.testing.assert_close(model.forward_head(tokens, pre_logits=True), tokens.mean(1))
    assert model(clips).shape == (2, 5)


def test_positions_count_relative_to_one_another_alone() -> None:
    block = drawn(ConformerBlock(dim=12, num_heads=3, length=40, kernel_size=3, ratio=2, drop=0))
    nn.init.constant_(block.attention.bias, -60.0)
    with torch.no_grad():
        block.attention.bias[37:42] = 0.5  # attends two tokens to either side
    sound = torch.randn(1, 5, 12, generator=torch.Generator().manual_seed(0)).double()
    early, late = torch.zeros(2, 1, 40, 12).double()
    early[:, 10:15], late[:, 20:25] = sound, sound
    torch.testing.assert_close(block(early)[:, 5:20], block(late)[:, 15:30])


def test_a_conformer_is_planned_like_other_bases() -> None:
    plan = plan_base("conformer", CLIP, arguments=base_arguments("conformer", SMALL))
    assert (plan.grid, plan.dim, plan.arguments["patch_size"]) == ((1, 32), 24, (24, 2))
    assert own_family("conformer") == plan.own_family == "hybrid"
    base = plan.build()
    assert base.mask_token is not None
    clips, mask = torch.randn(2, *CLIP.tensor), torch.zeros(2, 1, 32, dtype=torch.bool)
    output = base(clips, mask, feature_indices=[0, 1])
    assert output.maps_BDHW[1].shape == (2, 24, 1, 32)
    assert output.pooled_BD.shape == (2, 24)
    mask[0, 0, 3] = True
    masked = base(clips, mask)
    assert not torch.allclose(masked.pooled_BD[0], output.pooled_BD[0])
    torch.testing.assert_close(masked.pooled_BD[1], output.pooled_BD[1])
    listing = load_space(find_space("sequence.yaml")).on(plan).enumerate(64)
    assert listing is not None
    assert "own-d2" in {head.name for head in listing.candidates}


def test_paths_are_dropped_where_a_recipe_asks_for_it() -> None:
    plan = plan_base("conformer", CLIP, arguments=base_arguments("conformer", SMALL))
    rates = [block.drop_path.drop_prob for block in plan.build(drop_path=0.2).trunk.blocks]
    assert rates == pytest.approx([0, 0.2])
    assert [block.drop_path.drop_prob for block in plan.build().trunk.blocks] == [0, 0]


@pytest.mark.parametrize(
    ("shape", "arguments", "said"),
    [
        (InputShape.square(32), SMALL, "reads one row of patches"),
        (CLIP, "dim=25,num_heads=3", "dim must be a multiple of num_heads"),
        (CLIP, "kernel_size=4", "kernel_size must be odd"),
        (CLIP, "width=24", "takes no argument 'width'"),
    ],
)
def test_what_does_not_fit_is_one_line(shape: InputShape, arguments: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan_base("conformer", shape, arguments=base_arguments("conformer", arguments))


def test_its_model_is_one_of_timms_after_an_import() -> None:
    assert registered_by("conformer") == "headsearch.models.bases.conformer"
    assert registered_by("vit_tiny_patch16_224") is None
    arguments = {"depth": 1, "dim": 12, "img_size": (24, 64), "patch_size": (24, 4)}
    model = timm.create_model("conformer", num_classes=0, **arguments)
    again = timm.create_model("conformer", num_classes=0, **arguments)
    again.load_state_dict(model.state_dict())
    clips = torch.randn(2, 1, 24, 64)
    torch.testing.assert_close(again(clips), model(clips))
