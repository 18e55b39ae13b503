"""Detection of collapse: every kind is flagged, and healthy short runs are not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from headsearch.evaluation import collapse_reason, effective_rank, prototype_entropies


def gaussian(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_effective_rank_is_rankme_of_numpys_singular_values() -> None:
    x_ND = gaussian(60, 20, seed=0) * torch.logspace(0, -2, 20) + 0.3
    values = np.linalg.svd(x_ND.double().numpy(), compute_uv=False)
    want = math.exp(scipy.stats.entropy(values / values.sum()))
    assert effective_rank(x_ND) == pytest.approx(want, rel=1e-9)


def test_effective_rank_of_known_spectra() -> None:
    assert effective_rank(torch.eye(12)) == pytest.approx(12)
    assert effective_rank(torch.ones(30, 12)) == pytest.approx(1, abs=1e-6)
    assert effective_rank(torch.zeros(30, 12)) == 0
    assert math.isnan(effective_rank(torch.full((4, 4), math.nan)))


def test_a_constant_with_noise_is_collapsed_though_the_noise_has_full_rank() -> None:
    constant = gaussian(1, 192, seed=0)
    collapsed = constant + 0.003 * gaussian(512, 192, seed=1)
    assert effective_rank(collapsed - collapsed.mean(0)) > 150  # what centring would have said
    rank = effective_rank(collapsed)
    assert rank < 4
    assert collapse_reason(rank, 192, images=512) == f"effective rank {rank:.3g} of 192"


def test_an_offset_as_large_as_the_spread_does_not_look_like_collapse() -> None:
    spread = gaussian(512, 192, seed=1) * torch.linspace(1.5, 0.1, 192)
    with_offset = spread + spread.std() * gaussian(1, 192, seed=0)
    assert effective_rank(with_offset) > 0.75 * effective_rank(spread)


@pytest.mark.parametrize(
    ("rank", "given", "flagged"),
    [
        (38.0, {}, True),
        (39.0, {}, False),
        # 100 images cannot show a rank above 100
        (11.0, {"images": 100}, False),
        (9.0, {"images": 100}, True),
        # a base after 200 steps: its heads are measured by it, not by the width
        (6.0, {"base_rank": 14.5}, False),
        (3.5, {"base_rank": 14.5}, True),
        # a rich base does not ask more of a head than a tenth of the width
        (39.0, {"base_rank": 300.0}, False),
        # one direction is collapse though the base be as poor
        (1.9, {"base_rank": 2.0}, True),
        (2.1, {"base_rank": 2.0}, False),
        (39.0, {"base_rank": math.nan}, False),
        (math.nan, {}, True),
        (0.0, {"base_rank": 0.0}, True),
    ],
)
def test_rank_gate(rank: float, given: dict[str, float], flagged: bool) -> None:
    reason = collapse_reason(rank, 384, **given)  # type: ignore[arg-type]
    assert (reason is not None) == flagged


def test_reason_says_how_low_and_beside_what() -> None:
    assert collapse_reason(12.34, 384) == "effective rank 12.3 of 384"
    assert collapse_reason(3.0, 384, base_rank=20.0) == "effective rank 3 of 384, base 20"


def test_prototype_entropies_are_scipys() -> None:
    logits = gaussian(30, 11, seed=0)
    shares = torch.softmax(logits.double() / 0.2, 1).numpy()
    of_mean, of_images = prototype_entropies(logits, 0.2)
    assert of_mean == pytest.approx(scipy.stats.entropy(shares.mean(0)), rel=1e-5)
    assert of_images == pytest.approx(scipy.stats.entropy(shares, axis=1).mean(), rel=1e-5)
    with pytest.raises(ValueError, match="temperature=0"):
        prototype_entropies(logits, 0.0)


def reason_of(logits_NP: Tensor) -> str | None:
    of_mean, of_images = prototype_entropies(logits_NP, 0.04)
    width, prototypes = 192, logits_NP.shape[1]
    return collapse_reason(100.0, width, of_mean, prototypes, image_entropy=of_images)


def test_prototype_gate_flags_every_kind_of_collapse() -> None:
    one = torch.zeros(64, 32)
    one[:, 5] = 1.0
    assert reason_of(one) == "prototype entropy 0.000 of 3.47"
    flat = 1e-3 * gaussian(64, 32, seed=0)
    assert reason_of(flat) == "prototypes carry 0.000 of 3.47 nats"
    same_mixture = 0.1 * gaussian(1, 32, seed=0).expand(64, 32)
    assert reason_of(same_mixture) == "prototypes carry 0.000 of 3.47 nats"


def test_an_even_use_of_all_prototypes_is_health_not_collapse() -> None:
    even = torch.eye(32).repeat(2, 1)  # every image its own prototype: the mean is flat
    assert prototype_entropies(even, 0.04)[0] == pytest.approx(math.log(32), abs=1e-6)
    assert reason_of(even) is None


def test_an_entropy_needs_its_prototypes() -> None:
    with pytest.raises(ValueError, match="prototypes=None"):
        collapse_reason(100.0, 192, 1.0)


def test_little_information_in_base_and_head_alike_is_no_collapse() -> None:
    """Early in a run the base's prototypes carry little information too; only less than theirs
    counts."""

    def gate(information: float, of_base: float | None) -> str | None:
        return collapse_reason(
            100.0, 192, 6.9, 1024, image_entropy=6.9 - information, base_information=of_base
        )

    assert gate(0.05, None) is not None
    assert gate(0.05, 0.06) is None
    assert gate(0.01, 0.06) is not None
    assert gate(0.05, 3.0) is not None
