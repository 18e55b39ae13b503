"""Gains from solo runs: compared with formulas for complete tables and with scipy."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from headsearch.report.statistics.gains import fit, gains, largest_of_t


def runs(heads: int, seeds: int, *, effect: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Solo runs whose seeds differ far more than their heads; `h1` is better by `effect`."""
    rng = np.random.default_rng(seed)
    of_seed = rng.normal(0, 0.05, seeds)
    return pd.DataFrame(
        {
            "candidate": f"h{h}",
            "seed": s,
            "knn": 0.4 + of_seed[s] + effect * (h == 1) + rng.normal(0, 0.01),
        }
        for h in range(heads)
        for s in range(seeds)
    )


def test_on_a_complete_table_it_is_the_two_way_analysis_of_variance() -> None:
    table = runs(5, 4)
    found = fit(table, "knn")
    values = table["knn"].to_numpy().reshape(5, 4)
    residual = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    deviation = math.sqrt((residual**2).sum() / (4 * 3))
    assert found.freedom == 12
    assert found.deviation == pytest.approx(deviation)
    np.testing.assert_allclose(found.means, values.mean(axis=1))
    compared = gains(table, "knn", "h0")
    for h in range(1, 5):
        gain = compared[f"h{h}"]
        assert gain.value == pytest.approx(values[h].mean() - values[0].mean())
        half = (gain.high - gain.low) / 2
        reach = half / (deviation * math.sqrt(2 / 4))
        inside = stats.multivariate_t(
            shape=0.5 * (np.eye(4) + np.ones((4, 4))), df=12, seed=1
        ).cdf(np.full(4, reach), lower_limit=np.full(4, -reach))  # fmt: skip
        assert inside == pytest.approx(0.95, abs=0.003)
        assert gain.runs == 4


def test_the_largest_of_two_uncorrelated_t_is_their_product_without_a_common_scale() -> None:
    largest = largest_of_t(np.diag([4.0, 9.0]), freedom=10_000)
    assert (largest <= 2).mean() == pytest.approx((2 * stats.norm.cdf(2) - 1) ** 2, abs=0.003)


def test_a_seed_that_lifts_all_heads_is_no_gain_of_those_that_had_it() -> None:
    table = runs(4, 3)
    whole = gains(table, "knn", "h0")
    lucky = table["seed"] == table.loc[table["knn"].idxmax(), "seed"]
    missing = table[~(lucky & (table["candidate"] == "h2"))]
    partial = gains(missing, "knn", "h0")
    assert partial["h2"].value == pytest.approx(whole["h2"].value, abs=0.02)
    assert partial["h2"].runs == 2
    assert partial["h2"].high - partial["h2"].low > whole["h1"].high - whole["h1"].low


def test_no_head_is_called_better_by_luck_more_often_than_one_time_in_twenty() -> None:
    wrong = 0
    for seed in range(60):
        found = gains(runs(8, 3, seed=seed), "knn", "h0").values()
        wrong += any(gain.better or gain.worse for gain in found)
    assert wrong <= stats.binom.ppf(0.999, 60, 0.05)


def test_a_gain_far_beyond_the_noise_is_found_and_its_p_agrees() -> None:
    found = gains(runs(8, 3, effect=0.06), "knn", "h0")
    assert found["h1"].better
    assert found["h1"].p < 0.01
    assert all((gain.p < 0.05) == (gain.better or gain.worse) for gain in found.values())


def test_one_seed_gives_differences_and_claims_nothing() -> None:
    found = gains(runs(3, 1, effect=0.5), "knn", "h0")
    assert found["h1"].value == pytest.approx(0.5, abs=0.1)
    assert math.isnan(found["h1"].low)
    assert math.isnan(found["h1"].p)
    assert not found["h1"].better
