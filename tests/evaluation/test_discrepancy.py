"""Discrepancy of a head from its base: correct, unbiased, with an interval that covers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from headsearch.errors import UserError
from headsearch.evaluation import (
    DISCREPANCIES,
    debiased_linear_cka,
    discrepancy,
    discrepancy_of_grams,
    dominant_share,
    gram,
    group_of_images,
    jackknife,
    map_features,
    prototype_kl,
)
from headsearch.evaluation.similarity import BaseGram, cka_of_subsets


def gaussian(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def related(n: int, p: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    x_NP = gaussian(n, p, seed=seed)
    return x_NP, x_NP + noise * gaussian(n, p, seed=seed + 1)


def hsic_u(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    """HSIC₁ as a U-statistic: a sum over all 4-tuples of different images (Song 2012)."""
    n, total = len(k), 0.0
    for a, b, c, d in itertools.permutations(range(n), 4):
        total += k[a, b] * (l[a, b] + l[c, d] - 2 * l[a, c])
    return total / math.perm(n, 4)


def cka_u(x: Tensor, y: Tensor) -> float:
    k, l = ((z.double() @ z.double().T).numpy() for z in (x, y))  # noqa: E741
    return hsic_u(k, l) / math.sqrt(hsic_u(k, k) * hsic_u(l, l))


def plain_cka(x_NP: Tensor, y_NQ: Tensor) -> float:
    x, y = (z.double() - z.double().mean(0) for z in (x_NP, y_NQ))
    return float((y.T @ x).square().sum() / (x.T @ x).norm() / (y.T @ y).norm())


# --- CKA ---------------------------------------------------------------------------------------


def test_cka_is_the_u_statistic_summed_over_tuples_of_images() -> None:
    x_NP, y_NP = related(9, 5, noise=0.7, seed=0)
    x_NP = x_NP + 3.0  # the tuples' sum does not mind an offset; nor may we
    assert float(debiased_linear_cka(x_NP, y_NP)) == pytest.approx(cka_u(x_NP, y_NP), rel=1e-6)


def test_cka_of_independent_features_is_zero_where_the_plain_one_says_three_quarters() -> None:
    pairs = [(gaussian(128, 384, seed=s), gaussian(128, 384, seed=100 + s)) for s in range(8)]
    plain = np.array([plain_cka(x, y) for x, y in pairs])
    debiased = np.array([float(debiased_linear_cka(x, y)) for x, y in pairs])
    assert plain.mean() == pytest.approx(0.75, abs=0.02)
    assert abs(debiased.mean()) < 0.01


def test_tokens_as_samples_make_independent_images_alike_and_images_as_samples_do_not() -> None:
    """The images share nothing but the position pattern of their tokens."""
    position_ND = 1.5 * gaussian(16, 24, seed=7)
    rotated_ND = position_ND @ torch.linalg.qr(gaussian(24, 24, seed=8))[0]
    x_BND = position_ND + gaussian(256, 16, 24, seed=1)
    y_BND = rotated_ND + gaussian(256, 16, 24, seed=2)
    as_tokens = debiased_linear_cka(x_BND[:64].flatten(0, 1), y_BND[:64].flatten(0, 1))
    as_images = debiased_linear_cka(map_features(x_BND), map_features(y_BND))
    assert float(as_tokens) > 0.4
    assert abs(float(as_images)) < 0.05


def test_cka_needs_four_images_and_is_nan_for_constant_features() -> None:
    with pytest.raises(ValueError, match="at least 4 images"):
        debiased_linear_cka(torch.randn(3, 5), torch.randn(3, 5))
    constant = torch.ones(16, 5)
    assert math.isnan(float(debiased_linear_cka(gaussian(16, 5, seed=0), constant)))


def test_gram_is_that_of_centred_features_whatever_the_chunking() -> None:
    x_NP = gaussian(12, 9001, seed=3) + 50.0
    centred = x_NP.double() - x_NP.double().mean(0)
    torch.testing.assert_close(gram(x_NP), centred @ centred.T, rtol=1e-10, atol=1e-8)
    assert gram(x_NP.half()).dtype == torch.float64


def test_map_features_are_normalised_tokens_an_image_a_row() -> None:
    tokens_BND = 5 * gaussian(3, 4, 6, seed=0) + 2
    features = map_features(tokens_BND).numpy().reshape(3, 4, 6)
    want = tokens_BND.double().numpy()
    want = (want - want.mean(-1, keepdims=True)) / np.sqrt(want.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(features, want, atol=1e-5)


# --- every measure ------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", DISCREPANCIES)
def test_identity_scores_zero_and_more_noise_scores_more(measure: str) -> None:
    base = map_features(gaussian(96, 4, 8, seed=0) * torch.linspace(0.2, 3, 8))
    same = discrepancy(base, base.clone(), measure)
    assert same.value == pytest.approx(0, abs=1e-6)
    assert same.low == pytest.approx(0, abs=1e-5)
    assert same.high == pytest.approx(0, abs=1e-5)
    scores = [
        discrepancy(base, base + noise * gaussian(*base.shape, seed=1), measure).value
        for noise in (0.3, 1.0, 5.0)
    ]
    assert 0.01 < scores[0] < scores[1] < scores[2]


@pytest.mark.parametrize("measure", DISCREPANCIES)
def test_rotation_scale_and_offset_change_nothing(measure: str) -> None:
    base, head = related(80, 20, noise=0.5, seed=4)
    turn = torch.linalg.qr(gaussian(20, 20, seed=6).double())[0]
    moved = 7.0 * head.double() @ turn - 3.0
    want, got = discrepancy(base, head, measure), discrepancy(base, moved, measure)
    assert got.value == pytest.approx(want.value, abs=1e-6)
    assert got.high == pytest.approx(want.high, abs=1e-5)


@pytest.mark.parametrize("measure", DISCREPANCIES)
def test_measures_are_symmetric_and_take_different_widths(measure: str) -> None:
    base, head = gaussian(40, 12, seed=0), gaussian(40, 30, seed=1)
    there, back = discrepancy(base, head, measure), discrepancy(head, base, measure)
    assert there.value == pytest.approx(back.value, abs=1e-9)


def test_mutual_knn_is_the_neighbours_counted_one_by_one() -> None:
    base, head = related(60, 6, noise=0.8, seed=2)

    def nearest(x: Tensor, i: int) -> set[int]:
        by_distance = sorted((float((x[i] - x[j]).norm()), j) for j in range(60) if j != i)
        return {j for _, j in by_distance[:10]}

    shared = sum(len(nearest(base, i) & nearest(head, i)) for i in range(60))
    assert discrepancy(base, head, "mutual_knn").value == pytest.approx(1 - shared / 600)


def test_procrustes_is_the_angle_left_after_scipys_best_rotation() -> None:
    base, head = related(50, 8, noise=0.8, seed=5)
    x, y = (z.double().numpy() - z.double().numpy().mean(0) for z in (base, head))
    turn, _ = scipy.linalg.orthogonal_procrustes(y, x)
    cosine = np.sum(x * (y @ turn)) / np.linalg.norm(x) / np.linalg.norm(y)
    got = discrepancy(base, head, "procrustes").value
    assert got == pytest.approx(math.acos(cosine), abs=1e-9)


@pytest.mark.parametrize("measure", DISCREPANCIES)
def test_every_replicate_is_the_measure_on_the_images_left(measure: str) -> None:
    """Brute force: from the features of the remaining images, not from sub-matrices of the Gram."""
    base, head = related(47, 6, noise=0.6, seed=9)
    groups, n = 5, 47
    got = discrepancy(base, head, measure, groups=groups)
    group_N = group_of_images(n, groups)
    measure_of = DISCREPANCIES[measure].function
    whole = float(measure_of(gram(base), gram(head)))
    pseudo, shares = [], []
    for j in range(groups):
        kept = group_N != j
        share = n / (n - int(kept.sum()))
        left = float(measure_of(gram(base[kept]), gram(head[kept])))
        pseudo.append(share * whole - (share - 1) * left)
        shares.append(share)
    # Busing et al. 1999: the jackknife estimate is the pseudo-values' mean, weighted by group size
    centre = sum(p / h for p, h in zip(pseudo, shares, strict=True))
    variance = np.mean([(p - centre) ** 2 / (h - 1) for p, h in zip(pseudo, shares, strict=True)])
    half = scipy.stats.t.ppf(0.975, groups - 1) * math.sqrt(variance)
    assert got.value == pytest.approx(whole, abs=1e-9)
    assert got.low == pytest.approx(whole - half, abs=1e-9)
    assert got.high == pytest.approx(whole + half, abs=1e-9)


def test_cka_of_many_subsets_at_once_is_that_of_each_alone() -> None:
    base, head = related(60, 8, noise=0.7, seed=12)
    k_NN, l_NN = gram(base), gram(head)
    kept_SN = torch.rand(6, 60, generator=torch.Generator().manual_seed(0)) < 0.7
    kept_SN[0] = True
    got = cka_of_subsets(k_NN, l_NN, kept_SN)
    for kept_N, found in zip(kept_SN, got, strict=True):
        alone = debiased_linear_cka(base[kept_N], head[kept_N])
        assert float(found) == pytest.approx(float(alone), abs=1e-12)
    with pytest.raises(ValueError, match="at least 4 images, but got 3"):
        cka_of_subsets(k_NN, l_NN, torch.arange(60).unsqueeze(0) < 3)


@pytest.mark.parametrize("measure", DISCREPANCIES)
def test_many_heads_compared_with_one_base_measure_as_each_alone(measure: str) -> None:
    entry, base = DISCREPANCIES[measure], gram(gaussian(40, 12, seed=0))
    shared = BaseGram(base)
    for seed in (1, 2, 3):
        head = gram(gaussian(40, 9, seed=seed))
        assert float(entry.compare(shared, head)) == float(entry.function(base, head))


def test_unknown_measure_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'procrustes'"):
        discrepancy(gaussian(30, 4, seed=0), gaussian(30, 4, seed=1), "procrustis")


def test_base_and_head_with_different_images_are_refused() -> None:
    with pytest.raises(ValueError, match="same images, but got 30 and 31"):
        discrepancy(gaussian(30, 4, seed=0), gaussian(31, 4, seed=1))


@pytest.mark.parametrize("measure", DISCREPANCIES)
def test_a_head_that_diverged_scores_nan_and_raises_nothing(measure: str) -> None:
    base = gaussian(40, 4, seed=0)
    head = base.clone()
    head[3] = math.nan
    got = discrepancy(base, head, measure)
    assert math.isnan(got.value)
    assert math.isnan(got.low)


# --- the interval --------------------------------------------------------------------------------


def test_jackknife_of_a_mean_is_its_textbook_standard_error() -> None:
    x = gaussian(30, seed=0).double()
    got = jackknife(lambda kept: float((x if kept is None else x[kept]).mean()), 30, groups=30)
    half = scipy.stats.t.ppf(0.975, 29) * float(x.std()) / math.sqrt(30)
    assert got.value == pytest.approx(float(x.mean()))
    assert got.high - got.low == pytest.approx(2 * half)


def test_groups_are_even_fixed_and_mix_classes_that_cycle() -> None:
    group_N = group_of_images(403, 20)
    assert torch.equal(group_N, group_of_images(403, 20))
    assert sorted(torch.bincount(group_N).unique().tolist()) == [20, 21]
    classes_in_group = [len(set((torch.where(group_N == g)[0] % 10).tolist())) for g in range(20)]
    assert min(classes_in_group) >= 6
    for groups in (1, 5):
        with pytest.raises(ValueError, match=f"{groups=} and images=4"):
            group_of_images(4, groups)


def test_interval_is_as_wide_as_new_images_would_scatter_even_if_classes_cycle() -> None:
    """Against the truth: the spread of the score over fresh draws of images."""
    means = 1.2 * gaussian(10, 6, seed=50)
    mix = gaussian(6, 6, seed=51)

    def draw(seed: int) -> tuple[Tensor, Tensor]:
        base = means[torch.arange(200) % 10] + gaussian(200, 6, seed=1000 + seed)
        return base, base @ mix + 1.5 * gaussian(200, 6, seed=5000 + seed)

    estimates = [discrepancy(*draw(s)) for s in range(60)]
    values = np.array([e.value for e in estimates])
    truth = 1 - float(
        debiased_linear_cka(*(torch.cat(z) for z in zip(*map(draw, range(100, 115)), strict=True)))
    )
    half = np.mean([(e.high - e.low) / 2 for e in estimates])
    assert half / (scipy.stats.t.ppf(0.975, 19) * values.std()) == pytest.approx(1, abs=0.25)
    assert np.mean([e.low <= truth <= e.high for e in estimates]) >= 0.85


def test_leaving_images_out_keeps_the_bias_away_that_a_bootstrap_brings_back() -> None:
    base, head = gaussian(256, 1024, seed=0), gaussian(256, 1024, seed=1)
    k_NN, l_NN = gram(base), gram(head)
    interval = discrepancy_of_grams(k_NN, l_NN)
    assert interval.low < 1 < interval.high
    assert interval.high - interval.low < 0.1
    generator = torch.Generator().manual_seed(2)
    resampled = [torch.randint(256, (256,), generator=generator) for _ in range(10)]
    cka = DISCREPANCIES["cka"].function
    bootstrap = [float(cka(k_NN[i][:, i], l_NN[i][:, i])) for i in resampled]
    assert max(bootstrap) < 0.6


# --- beside the discrepancy -----------------------------------------------------------------------


def test_dominant_share_is_the_first_of_numpys_principal_components() -> None:
    x_NP = gaussian(40, 6, seed=0) * torch.tensor([6.0, 1, 1, 1, 1, 1]) + 10.0
    values = np.linalg.svd((x_NP - x_NP.mean(0)).double().numpy(), compute_uv=False) ** 2
    assert dominant_share(x_NP) == pytest.approx(values[0] / values.sum(), rel=1e-6)
    assert dominant_share(x_NP) > 0.7
    assert math.isnan(dominant_share(torch.full((8, 3), math.inf)))


def test_one_dominant_component_makes_unrelated_features_alike() -> None:
    shared = 12 * gaussian(256, 1, seed=0)
    base, head = (torch.cat([shared, gaussian(256, 16, seed=s)], 1) for s in (1, 2))
    assert dominant_share(base) > 0.8
    assert discrepancy(base, head).value < 0.06


def test_prototype_kl_is_scipys_relative_entropy_of_the_heads_distribution_to_the_bases() -> None:
    base, head = gaussian(20, 7, seed=0), gaussian(20, 7, seed=1)

    def shares(logits: Tensor) -> np.ndarray:
        z = logits.double().numpy()
        return scipy.special.softmax((z - z.mean(0)) / 0.5, axis=1)

    want = scipy.special.rel_entr(shares(head), shares(base)).sum(1).mean()
    assert prototype_kl(base, head, 0.5) == pytest.approx(want, rel=1e-5)
    # an offset that all images share is the centre's business
    assert prototype_kl(base, base + gaussian(1, 7, seed=2), 0.5) == pytest.approx(0, abs=1e-5)
    with pytest.raises(ValueError, match="temperature=0"):
        prototype_kl(base, head, 0.0)
