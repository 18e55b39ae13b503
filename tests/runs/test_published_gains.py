"""Gains that published settings let expect: the fit on made-up heads, and the table itself."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from headsearch.runs.published_gains import (
    fit,
    least_squares,
    predicted_gain,
    published,
    published_model,
    static_prior,
)


def made_up(settings: int = 3, heads: int = 12, noise: float = 0.0) -> pd.DataFrame:
    """gain = 0.01 + 0.5 · advantage + 0.02 · [discrepancy > 0.1] + noise."""
    rng = np.random.default_rng(0)
    rows = []
    for setting in range(settings):
        for head in range(heads):
            advantage, discrepancy = rng.normal(0, 0.05), rng.uniform(0, 0.2)
            gain = 0.01 + 0.5 * advantage + 0.02 * (discrepancy > 0.1) + noise * rng.normal()
            rows.append((f"s{setting}", f"h{head}", f"f{head // 2}", advantage, discrepancy, gain))
    columns = ["setting", "candidate", "family", "advantage", "discrepancy", "gain"]
    return pd.DataFrame(rows, columns=columns)


@pytest.mark.parametrize("settings", [1, 3])
def test_the_model_that_made_the_gains_is_found(settings: int) -> None:
    found = fit(made_up(settings))
    assert found.model.intercept == pytest.approx(0.01)
    assert found.model.slope == pytest.approx(0.5)
    assert found.model.step == pytest.approx(0.02)
    assert (found.heads, found.settings) == (12 * settings, settings)
    assert found.model.threshold == pytest.approx(0.1, abs=0.03)
    assert found.model.predict(0.1, 0.2) == pytest.approx(0.08)
    assert found.model.predict(0.1, 0.01) == pytest.approx(0.06)
    assert math.isnan(found.model.predict(math.nan, 0.2))


def test_the_error_is_that_of_settings_left_out_of_the_fit() -> None:
    table = made_up(noise=0.01)
    squares = []
    for setting in ("s0", "s1", "s2"):
        model = least_squares(table[table["setting"] != setting])
        for row in table[table["setting"] == setting].itertuples():
            squares.append((row.gain - model.predict(row.advantage, row.discrepancy)) ** 2)
    found = fit(table)
    assert found.error == pytest.approx(math.sqrt(np.mean(squares)))
    # Made with a standard deviation of 0.01, and predicted for heads that were not seen.
    assert 0.008 < found.error < 0.014
    assert found.half_width == pytest.approx(2.037 * found.error, rel=1e-3)  # t of 32 degrees


def test_too_few_heads_for_a_threshold_are_refused() -> None:
    with pytest.raises(ValueError, match="6 heads or more, but got 5"):
        least_squares(made_up(1, heads=5))


def test_the_prior_is_the_mean_gain_of_the_head_relative_to_its_settings() -> None:
    table = pd.DataFrame(
        {
            "setting": ["a", "a", "b", "b"],
            "candidate": ["x-d1", "y-d1", "x-d1", "x-d2"],
            "family": ["x", "y", "x", "x"],
            "gain": [0.03, 0.01, 0.00, 0.04],
        }
    )
    # Means of the settings: 0.02 and 0.02.
    assert static_prior("x-d1", "x", table) == pytest.approx((0.01 - 0.02) / 2)
    assert static_prior("y-d1", "y", table) == pytest.approx(-0.01)
    assert static_prior("x-d9", "x", table) == pytest.approx((0.01 - 0.02 + 0.02) / 3)
    assert static_prior("z-d1", "z", table) == 0.0


def test_the_published_table_is_complete_and_used() -> None:
    table = published()
    assert not table.drop(columns=["advantage", "discrepancy"]).isna().any(axis=None)
    assert not table.duplicated(["setting", "candidate"]).any()
    model = published_model().model
    assert predicted_gain(0.05, 0.2) == pytest.approx(
        model.intercept + 0.05 * model.slope + model.step
    )
