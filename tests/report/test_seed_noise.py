"""Seed noise of a ranking: compared with the paired t-test and simulated truths."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from headsearch.report.statistics.ranking import contenders
from headsearch.report.statistics.seed_noise import clearly_ahead, noise_of, rank_noise
from headsearch.runs.tables import ranked
from helpers import synthetic_runs


def scores(means: list[float], seeds: int, noise: float, seed: int = 0) -> pd.DataFrame:
    """Scores whose seeds differ far more than their heads."""
    rng = np.random.default_rng(seed)
    of_seed = rng.normal(0, 1, seeds)
    return pd.DataFrame(
        {"candidate": f"h{h}", "seed": s, "score": mean + of_seed[s] + noise * rng.normal()}
        for h, mean in enumerate(means)
        for s in range(seeds)
    )


def test_two_heads_are_told_apart_as_in_a_paired_t_test() -> None:
    """Of two heads, Tukey's comparison is the paired t-test of their seeds."""
    table = scores([0.3, 0.0], 5, 0.1)
    found = noise_of(table)
    wide = table.pivot(index="candidate", columns="seed", values="score").to_numpy()
    interval = stats.ttest_rel(wide[0], wide[1]).confidence_interval(0.95)
    half = (interval.high - interval.low) / 2
    assert found.least_difference == pytest.approx(half, rel=1e-6)


def test_seeds_that_lift_all_heads_cost_nothing_and_noise_is_pooled() -> None:
    table = scores([0.0, 0.1, 0.2, 0.3], 3, 0.02)
    found = noise_of(table)
    wide = table.pivot(index="candidate", columns="seed", values="score").to_numpy()
    residual = wide - wide.mean(1, keepdims=True) - wide.mean(0) + wide.mean()
    assert found.deviation == pytest.approx(math.sqrt((residual**2).sum() / 6))
    least = stats.studentized_range.ppf(0.95, 4, 6) * found.deviation / math.sqrt(3)
    assert found.least_difference == pytest.approx(least)


def test_heads_far_apart_have_one_rank_and_equal_ones_share_all() -> None:
    far = noise_of(scores([3.0, 2.0, 1.0], 3, 0.01))
    assert far.ranks == {"h0": (1, 1), "h1": (2, 2), "h2": (3, 3)}
    assert far.groups == {"h0": ("a",), "h1": ("b",), "h2": ("c",)}
    assert far.seed_to_seed == pytest.approx(1)
    near = noise_of(scores([0.0] * 4, 3, 0.1))
    assert set(near.ranks.values()) == {(1, 4)}
    assert set(near.groups.values()) == {("a",)}


def test_letters_are_shared_by_heads_that_are_not_told_apart_and_by_no_others() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        table = scores(list(rng.normal(0, 0.1, 8)), 3, 0.03, seed)
        found = noise_of(table)
        means = table.groupby("candidate")["score"].mean()
        for a in means.index:
            for b in means.index:
                apart = abs(means[a] - means[b]) > found.least_difference
                assert apart != bool(set(found.groups[a]) & set(found.groups[b]))


def test_the_intervals_of_ranks_hold_for_all_heads_at_once() -> None:
    truth = [0.0, 0.02, 0.04, 0.06, 0.08, 0.1]
    held = 0
    for seed in range(60):
        found = noise_of(scores(truth, 3, 0.03, seed))
        ranks = {f"h{h}": 6 - h for h in range(6)}
        held += all(low <= ranks[name] <= high for name, (low, high) in found.ranks.items())
    assert held >= 54  # 57 expected


def test_one_seed_tells_of_images_alone_and_several_of_seeds(tmp_path: Path) -> None:
    one = rank_noise(synthetic_runs.run(tmp_path))
    assert one is not None
    assert one.seeds == 1
    assert not one.groups
    several = rank_noise(synthetic_runs.run(tmp_path, seeds=3))
    assert several is not None
    assert several.seeds == 3
    rungs = synthetic_runs.run(tmp_path).rungs
    last = set(rungs.loc[rungs["rung"] == rungs["rung"].max(), "candidate"])
    assert set(one.ranks) == last
    assert set(several.ranks) == set(several.groups) == last - {"identity"}
    for row in ranked(synthetic_runs.run(tmp_path).ranking):
        if row.candidate in one.ranks:
            assert one.ranks[row.candidate][0] <= row.rank <= one.ranks[row.candidate][1]
    assert rank_noise(synthetic_runs.run(tmp_path, last=-1)) is None


def test_heads_of_other_cohorts_are_not_compared_where_heads_shape_their_base(
    tmp_path: Path,
) -> None:
    run = synthetic_runs.run(tmp_path, seeds=3)
    leader = run.ranking.loc[run.ranking["rank"] == 1, "candidate"].item()
    other = run.ranking.assign(cohort=(run.ranking["rank"] > 2).astype(int))
    joint = rank_noise(replace(run, ranking=other))
    assert joint is not None
    assert set(joint.ranks) == set(run.ranking.loc[run.ranking["rank"] <= 2, "candidate"])
    assert leader in joint.ranks
    watching = replace(run, ranking=other, config={**run.config, "coupling": "observe"})
    found = rank_noise(watching)
    assert found is not None
    assert len(found.ranks) > 2


def test_of_several_seeds_a_head_is_ahead_where_they_share_no_letter(tmp_path: Path) -> None:
    run = synthetic_runs.run(tmp_path, seeds=3)
    noise = rank_noise(run)
    assert noise is not None
    peers = [row for row in contenders(ranked(run.ranking)) if row.family != "identity"]
    for first in peers:
        for second in peers:
            apart = not set(noise.groups[first.candidate]) & set(noise.groups[second.candidate])
            assert clearly_ahead(first, second, run) == (apart and first.score > second.score)
    assert not clearly_ahead(peers[0], peers[0], run)
