"""The expected gain of the first head, and how the published settings differ from a run's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headsearch.report.caveats import trust
from headsearch.report.expected_gain import expected_gain
from headsearch.runs.published_gains import published, published_model
from headsearch.runs.run import Run
from helpers import synthetic_runs


def run(
    tmp_path: Path,
    gain: float = 0.0123,
    advantage: float = 0.02,
    discrepancy: float = 0.2,
    **facts: Any,
) -> Run:
    """A run whose heads all have this expected gain, advantage and discrepancy."""
    made = synthetic_runs.run(tmp_path, **facts)
    scores = made.scores.assign(
        predicted_gain=gain,
        choose_linear=made.scores["base_choose_linear"] + advantage,
        cka=discrepancy,
    )
    return replace(made, scores=scores)


def test_the_report_gives_it_with_its_error_and_says_what_differs(tmp_path: Path) -> None:
    found = run(tmp_path)
    (sentence,) = expected_gain(found)
    first = found.ranking.iloc[0]["candidate"]
    half = 100 * published_model().half_width
    assert (
        f"Expected gain of {first}: +1.2 ± {half:.1f} points (95% prediction interval)" in sentence
    )
    assert "from 1 published setting with 17 heads" in sentence
    assert "It differs from this run in base, data, width, images and steps" in sentence
    assert sentence in list(trust(found))


def test_a_run_like_a_published_setting_is_called_so(tmp_path: Path) -> None:
    setting = published().iloc[0]
    found = run(
        tmp_path,
        base={"timm_name": setting["base"], "dim": 96, "grid": [4, 4]},
        images=20_000,
        steps=1000,
    )
    config = {**found.config, "data": "data/cifar10/train.tar", "objective": "simclr"}
    (sentence,) = expected_gain(replace(found, config=config))
    assert sentence.endswith("It is a setting like this run's.")


def test_without_the_column_nothing_is_expected(tmp_path: Path) -> None:
    assert list(expected_gain(synthetic_runs.run(tmp_path))) == []


@pytest.mark.parametrize(
    ("advantage", "discrepancy", "said"),
    [
        (0.3, 0.2, ["its linear accuracy minus the base's (+30.0) lies outside their range ("]),
        (0.02, 0.95, ["its discrepancy (0.95) lies outside their range ("]),
        (
            -0.3,
            0.95,
            ["the base's (−30.0) lies outside", "and its discrepancy (0.95)"],
        ),
    ],
)
def test_no_gain_is_expected_of_a_head_outside_the_published_range(
    tmp_path: Path, advantage: float, discrepancy: float, said: list[str]
) -> None:
    found = run(tmp_path, advantage=advantage, discrepancy=discrepancy)
    (sentence,) = expected_gain(found)
    assert sentence.startswith("No gain of ")
    assert all(each in sentence for each in said)
    assert "±" not in sentence


@pytest.mark.parametrize("baselines", [{}, {"untrained_knn": 0.5, "base_knn": 0.4}])
def test_nothing_is_expected_where_the_base_is_not_known_to_have_learned(
    tmp_path: Path, baselines: dict[str, float]
) -> None:
    assert list(expected_gain(run(tmp_path, baselines=baselines))) == []


def test_nothing_is_expected_of_an_untrained_head(tmp_path: Path) -> None:
    found = run(tmp_path)
    at_start = found.scores.assign(rung=0)
    assert list(expected_gain(replace(found, scores=at_start))) == []
