"""What a base has learned, block by block: planted truths and independent formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.metrics import cohen_kappa_score
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from headsearch.evaluation.interpretation.change import (
    cka_by_block,
    cka_matrix,
    error_of_change,
)
from headsearch.evaluation.interpretation.cues import CUES, high_pass, low_pass, shuffled_patches
from headsearch.evaluation.interpretation.decisions import (
    accuracy_by_class,
    error_consistency,
    flipped,
)
from headsearch.evaluation.interpretation.evidence import (
    aligned,
    evidence_on,
    principal_maps,
    token_shares,
)
from headsearch.evaluation.interpretation.frequency import log_amplitudes
from headsearch.evaluation.interpretation.reach import (
    attention_distances,
    attention_weights,
    field_radii,
    patch_distances,
)
from headsearch.evaluation.interpretation.toward_head import ridge_r2, token_rows
from headsearch.evaluation.similarity import gram
from headsearch.models.bases import plan_base


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def blocks(replaced: int | None = None) -> list[Tensor]:
    """The Gram matrices of a chain of five blocks, each a function of the one before it."""
    x, grams = drawn(128, 24), []
    for block in range(1, 6):
        x = torch.tanh(x @ drawn(24, 24, seed=block)) + 0.5 * x
        if block == replaced:
            x = drawn(128, 24, seed=99)
        grams.append(gram(x))
    return grams


def test_a_base_whose_block_3_is_replaced_differs_from_block_3_on_and_not_before() -> None:
    found = 1 - cka_by_block(blocks(replaced=3), blocks())
    assert found[:2].abs().max() < 1e-9
    assert found[2] > 0.8
    matrix = cka_matrix(blocks(replaced=3), blocks())
    assert torch.allclose(matrix.diagonal(), 1 - found)
    assert matrix[1, 0] > matrix[3, 0]


def test_the_error_of_a_change_is_0_without_one_and_covers_what_other_images_give() -> None:
    plain, other = blocks()[2], gram(drawn(128, 24, seed=5) + drawn(128, 24))
    assert error_of_change(plain, plain, other) == 0
    changed = gram(drawn(128, 24) + 0.5 * drawn(128, 24, seed=7))
    assert 0 < error_of_change(changed, plain, other) < 0.5


def test_a_head_that_is_a_linear_map_of_block_2_has_r2_1_there_and_less_elsewhere() -> None:
    block_1 = drawn(600, 16)
    block_2 = torch.tanh(2 * block_1 @ drawn(16, 16, seed=1)) + drawn(600, 16, seed=2)
    head = block_2 @ drawn(16, 8, seed=3) + drawn(8, seed=4)
    assert ridge_r2(block_2, head, 300) == pytest.approx(1, abs=1e-3)
    assert ridge_r2(block_1, head, 300) < 0.8
    assert ridge_r2(drawn(600, 16, seed=8), head, 300) < 0.1


def test_r2_is_that_of_scikit_learns_ridge() -> None:
    x, y = drawn(200, 6).double(), drawn(200, 3, seed=1).double() + drawn(200, 1).double()
    mean, std = x[:120].mean(0), x[:120].std(0, correction=0)
    model = Ridge(alpha=0.5 * 120).fit(((x - mean) / std)[:120], y[:120])
    residual = y[120:] - torch.from_numpy(model.predict(((x - mean) / std)[120:]))
    total = (y[120:] - y[:120].mean(0)).square().sum()
    assert ridge_r2(x, y, 120, 0.5) == pytest.approx(float(1 - residual.square().sum() / total))


def test_rows_of_tokens_are_those_of_the_same_places_at_any_resolution() -> None:
    coarse = drawn(3, 5, 4, 4)
    places = torch.tensor([0, 6])
    fine = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    rows = token_rows(coarse, (4, 4), places)
    assert torch.equal(rows[1], coarse[0, :, 1, 2])
    torch.testing.assert_close(token_rows(fine, (4, 4), places), rows)


def test_a_map_without_high_frequencies_has_a_low_amplitude_there() -> None:
    noise = drawn(4, 6, 8, 8)
    kernel = torch.full((6, 1, 3, 3), 1 / 9)
    blurred = nn.functional.conv2d(
        nn.functional.pad(noise, (1, 1, 1, 1), mode="circular"), kernel, groups=6
    )
    plain, low = log_amplitudes(noise), log_amplitudes(blurred)
    assert plain.shape == (5,)
    assert plain[0] == 0
    assert low[-1] < plain[-1] - 1
    # At (π, π) the kernel's own response is (1 − 2 + … )/9 = 1/9, so the map loses ln 9 there.
    assert float(low[-1] - plain[-1]) == pytest.approx(-np.log(9), abs=1e-6)
    spectrum = np.log(np.abs(np.fft.fft2(noise.double().numpy()))).mean((0, 1))
    assert float(plain[2]) == pytest.approx(spectrum[2, 2] - spectrum[0, 0])
    assert torch.isnan(log_amplitudes(drawn(2, 3, 1, 1))).all()


def test_attention_weights_are_those_that_the_layer_uses() -> None:
    layer = Attention(16, num_heads=2, qkv_bias=True, qk_norm=True, norm_layer=nn.LayerNorm).eval()
    tokens = drawn(2, 10, 16)
    weights = attention_weights(layer, tokens)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 2, 10))
    _, _, value = layer.qkv(tokens).reshape(2, 10, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
    output = layer.proj((weights @ value).transpose(1, 2).reshape(2, 10, 16))
    torch.testing.assert_close(output, layer(tokens))


def test_a_base_that_attends_to_itself_alone_has_distance_0_and_one_to_all_the_mean() -> None:
    base = plan_base("test_vit", 16, patch_size=4).build().eval()
    for module in base.trunk.modules():
        if isinstance(module, Attention):
            nn.init.zeros_(module.qkv.weight)  # all keys are equal: every patch attends to all
            nn.init.zeros_(module.qkv.bias)
    images = drawn(2, 3, 16, 16)
    found = attention_distances(base.trunk, lambda: base(images), (4, 4))
    assert found is not None
    expected = float(patch_distances((4, 4)).mean())
    assert found.tolist() == pytest.approx([expected] * len(found), rel=1e-5)
    convolutions = plan_base("test_resnet", 32).build().eval()
    assert attention_distances(convolutions.trunk, lambda: None, (4, 4)) is None


def test_the_field_of_convolutions_grows_with_depth_and_has_the_radius_of_a_box() -> None:
    images = drawn(1, 3, 17, 17).requires_grad_()
    weight = torch.ones(1, 3, 3, 3)
    first = nn.functional.conv2d(images, weight, padding=1)
    second = nn.functional.conv2d(first, torch.ones(1, 1, 3, 3), padding=1)
    radii = field_radii([first, second], images)
    # A uniform 3 × 3 box: variance 2/3 along either axis; two of them add up.
    assert radii.tolist() == pytest.approx([(4 / 3) ** 0.5, (8 / 3) ** 0.5], rel=1e-5)


def test_low_and_high_frequencies_of_an_image_add_up_to_it() -> None:
    images = torch.randint(90, 160, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    images = images.to(torch.uint8)
    both = low_pass(images).float() + high_pass(images).float() - 127.5
    assert (both - images.float()).abs().max() <= 1.5  # both are rounded
    flat = torch.full((1, 3, 16, 16), 70, dtype=torch.uint8)
    assert torch.equal(low_pass(flat), flat)


def test_shuffled_patches_are_the_same_pixels_elsewhere() -> None:
    images = torch.randint(0, 255, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    images = images.to(torch.uint8)
    found = shuffled_patches(images)
    assert not torch.equal(found, images)
    assert torch.equal(found.flatten(2).sort(2).values, images.flatten(2).sort(2).values)


@pytest.mark.parametrize("side", [16, 18])
@pytest.mark.parametrize("name", CUES)
def test_every_cue_gives_images_like_those_it_takes(name: str, side: int) -> None:
    images = torch.randint(0, 255, (3, 3, side, side), dtype=torch.uint8)
    found = CUES[name](images)
    assert found.shape == images.shape
    assert found.dtype == torch.uint8


def test_error_consistency_is_cohens_kappa() -> None:
    first, second = drawn(200) > 0, (drawn(200) + drawn(200, seed=1)) > 0.2
    expected = cohen_kappa_score(first.numpy(), second.numpy())
    assert error_consistency(first, second) == pytest.approx(expected)
    assert error_consistency(first, first) == 1
    assert np.isnan(error_consistency(torch.ones(4).bool(), torch.ones(4).bool()))


def test_accuracy_by_class_and_images_that_flipped() -> None:
    right = torch.tensor([True, False, True, True])
    shares = accuracy_by_class(right, torch.tensor([0, 0, 2, 2]), 4)
    assert shares[[0, 2]].tolist() == [0.5, 1]
    assert torch.isnan(shares[[1, 3]]).all()
    ours = torch.tensor([[True, True, False, False], [True, False, False, True]])
    theirs = torch.tensor([[False, False, True, False], [False, False, True, False]])
    won, lost = flipped(ours, theirs)
    assert won.tolist() == [0]
    assert lost.tolist() == [2]


def test_the_shares_of_tokens_add_up_to_the_logit() -> None:
    tokens, weight, bias = drawn(5, 9, 7), drawn(4, 7, seed=1), drawn(4, seed=2)
    classes = torch.tensor([0, 3, 1, 1, 2])
    logits = tokens.mean(1) @ weight.T + bias
    shares = token_shares(tokens, weight, bias, classes)
    torch.testing.assert_close(
        shares.sum(1).float(), logits[torch.arange(5), classes], atol=1e-5, rtol=1e-5
    )
    mask = torch.zeros(5, 9)
    mask[:, :3] = 1
    beside = 1 - mask
    total = evidence_on(shares, mask.double()) + evidence_on(shares, beside.double())
    torch.testing.assert_close(total, torch.ones(5).double())


def test_components_of_a_rotated_copy_are_aligned_with_those_of_the_model() -> None:
    tokens = drawn(4, 16, 6) * torch.tensor([5.0, 3, 2, 0.1, 0.1, 0.1])
    rotation = torch.linalg.qr(drawn(6, 6, seed=3))[0]
    ours, theirs = principal_maps(tokens), principal_maps(tokens @ rotation)
    torch.testing.assert_close(aligned(theirs, ours), ours, atol=1e-5, rtol=0)
    first, second = ours[..., 0].flatten(), ours[..., 1].flatten()
    assert abs(stats.pearsonr(first, second).statistic) < 1e-6
