"""Ranking: its order, its statistics against independent formulas, significant differences."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from headsearch.report.statistics.intervals import Interval, accuracy_interval, told_apart
from headsearch.report.statistics.rank_correlation import correlation, trend
from headsearch.report.statistics.ranking import (
    base_has_learnt,
    contenders,
    distinct,
    last_rung,
    rank_by,
)
from headsearch.runs.tables import RANKING_COLUMNS, rank, ranked
from helpers import synthetic_runs


def rows_of(*heads: tuple[str, str, int, float]) -> pd.DataFrame:
    """Rows of ranking.csv from (candidate, state, rungs, score)."""
    columns = [name for name in RANKING_COLUMNS if name != "rank"]
    filled = {
        "candidate": [head[0] for head in heads],
        "state": [head[1] for head in heads],
        "rungs": [head[2] for head in heads],
        "score": [head[3] for head in heads],
    }
    return pd.DataFrame({name: filled.get(name, [np.nan] * len(heads)) for name in columns})


ORDERED = [
    ("best", "complete", 4, 0.31),
    ("also-live", "running", 4, 0.30),
    ("equal-a", "complete", 4, 0.2),
    ("equal-b", "complete", 4, 0.2),
    ("unscored", "complete", 4, math.nan),
    ("pruned-late", "pruned", 3, 0.05),
    ("pruned-early-good", "pruned", 1, 0.9),
    ("pruned-early-bad", "pruned", 1, 0.1),
    ("fell-in", "collapsed", 4, 0.99),
    ("broke", "failed", 4, 1.0),
]


@pytest.mark.parametrize("seed", range(3))
def test_the_order_follows_state_then_rungs_then_score_whatever_order_rows_come_in(seed):
    shuffled = [ORDERED[i] for i in np.random.default_rng(seed).permutation(len(ORDERED))]
    table = rank(rows_of(*shuffled))
    assert list(table["candidate"]) == [head[0] for head in ORDERED]
    assert list(table["rank"]) == list(range(1, len(ORDERED) + 1))
    assert tuple(table.columns) == RANKING_COLUMNS


def test_further_columns_such_as_gain_stay_behind_the_known_ones():
    table = rank(rows_of(*ORDERED).assign(gain=0.01))
    assert tuple(table.columns) == (*RANKING_COLUMNS, "gain")


def test_no_rows_give_an_empty_ranking():
    assert tuple(rank(rows_of()).columns) == RANKING_COLUMNS
    assert ranked(rank(rows_of())) == []


def test_a_ranking_survives_its_csv(tmp_path: Path):
    run = synthetic_runs.run(tmp_path, labelled=False)
    run.ranking.to_csv(tmp_path / "ranking.csv", index=False)
    back = ranked(pd.read_csv(tmp_path / "ranking.csv"))
    assert [row.candidate for row in back] == list(run.ranking["candidate"])
    assert back[0].reason == ""
    assert math.isnan(back[0].head_knn)


@pytest.mark.parametrize(("hits", "images"), [(0, 50), (13, 50), (228, 600), (50, 50)])
def test_the_interval_of_an_accuracy_is_wilsons(hits, images):
    expected = stats.binomtest(hits, images).proportion_ci(0.95, method="wilson")
    found = accuracy_interval(hits / images, images)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "lower_limit"),
    # Newcombe (1998), table II, method 10: the published lower limit of the difference
    [((56, 70), (48, 80), 0.0524), ((9, 10), (3, 10), 0.1705), ((5, 56), (0, 29), -0.0381)],
)
def test_two_accuracies_are_told_apart_as_newcombe_published(first, second, lower_limit):
    a, b = (accuracy_interval(hits / images, images) for hits, images in (first, second))

    def lowered(interval: Interval, by: float) -> Interval:
        return Interval(*(bound - by for bound in interval))

    assert told_apart(a, b) == (lower_limit > 0)
    # Lowering the larger figure by its lower limit is where the verdict turns.
    assert told_apart(lowered(a, lower_limit - 1e-4), b)
    assert not told_apart(lowered(a, lower_limit + 1e-4), b)
    assert told_apart(a, b) == told_apart(b, a)


def test_missing_bounds_cannot_be_told_apart():
    unknown = Interval(0.3, math.nan, math.nan)
    assert not told_apart(unknown, Interval(0.1, 0.09, 0.11))


def test_correlation_is_scipys_with_ties_and_missing_figures_left_out():
    x = [0.1, 0.2, 0.2, 0.3, 0.4, 0.5, 0.7, math.nan]
    y = [0.30, 0.31, 0.29, 0.31, 0.36, 0.33, 0.40, 0.9]
    found = correlation(x, y)
    assert found is not None
    assert found.number == 7
    assert found.kendall.value == pytest.approx(stats.kendalltau(x[:7], y[:7]).statistic)
    assert found.spearman.value == pytest.approx(stats.spearmanr(x[:7], y[:7]).statistic)
    assert found.kendall.low < found.kendall.value < found.kendall.high <= 1
    assert found == correlation(x, y)


def test_beyond_many_pairs_the_normal_p_takes_over_where_both_agree(monkeypatch):
    rng = np.random.default_rng(5)
    for strength in (0.0, 0.2, 0.3):
        x = rng.normal(size=65).round(1)  # ties
        y = strength * x + rng.normal(size=65)
        normal = correlation(x, y).p
        with monkeypatch.context() as patched:
            patched.setattr("headsearch.report.statistics.rank_correlation.PERMUTED", 65)
            permuted = correlation(x, y).p
        assert normal != permuted
        assert normal == pytest.approx(permuted, abs=0.02)


def test_permutation_p_agrees_with_the_exact_distribution_of_tau():
    rng = np.random.default_rng(3)
    x = rng.normal(size=9)
    y = x + 1.2 * rng.normal(size=9)
    exact = stats.kendalltau(x, y, method="exact").pvalue
    assert 0.005 < exact < 0.5
    found = correlation(x, y)
    assert found is not None
    # four standard errors of 9,999 permutations
    assert found.p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 9999))


def test_intervals_cover_the_true_correlation_about_19_times_in_20():
    # A bivariate normal of correlation r: tau = 2/π asin r, rho_S = 6/π asin r/2.
    r, number, draws = 0.6, 12, 400
    tau, rho = 2 / math.pi * math.asin(r), 6 / math.pi * math.asin(r / 2)
    rng = np.random.default_rng(0)
    covered = np.zeros(2)
    for _ in range(draws):
        x, z = rng.normal(size=(2, number))
        found = correlation(x, r * x + math.sqrt(1 - r**2) * z, permutations=0)
        assert found is not None
        covered += (
            found.kendall.low <= tau <= found.kendall.high,
            found.spearman.low <= rho <= found.spearman.high,
        )
    assert (covered / draws > 0.92).all()
    assert (covered / draws < 0.99).all()


def test_a_perfect_order_keeps_an_interval_with_width():
    found = correlation(range(6), range(6))
    assert found is not None
    assert found.kendall.value == pytest.approx(1)
    assert found.kendall.low < 0.9
    assert found.kendall.high == pytest.approx(1)


@pytest.mark.parametrize(
    ("x", "y"), [([1, 2, 3, 4], [1, 2, 3, 4]), ([1, 1, 1, 1, 1, 1], range(6)), ([], [])]
)
def test_too_few_or_constant_figures_have_no_correlation(x, y):
    assert correlation(x, y) is None


def test_the_trend_is_taken_before_pruning_selects(tmp_path: Path):
    run = synthetic_runs.run(tmp_path, states={"gmlp-d2": ("collapsed", 2, "")})
    found = trend(run, "discrepancy", "head_knn")
    assert found is not None
    assert found.rung == 1
    assert found.correlation.number == len(synthetic_runs.HEADS) - 1
    # With every head kept to the end, the last rung is the one.
    kept = dict.fromkeys(synthetic_runs.HEADS, ("complete", 4, ""))
    later = trend(synthetic_runs.run(tmp_path, states=kept), "discrepancy", "head_knn")
    assert later is not None
    assert later.rung == synthetic_runs.RUNGS


@pytest.mark.parametrize("last", [-1, 0])
def test_an_untrained_network_has_no_trend(tmp_path: Path, last):
    assert trend(synthetic_runs.run(tmp_path, last=last), "discrepancy", "head_knn") is None


def test_only_heads_scored_as_late_as_the_leader_are_compared_with_it(tmp_path: Path):
    rows = ranked(synthetic_runs.run(tmp_path).ranking)
    assert {row.candidate for row in contenders(rows)} == {
        "bottleneck-d2-k3",
        "convnext-d3-k7-noshortcut",
        "mixer-d2-r4",
        "own-d2",
        "identity",
    }
    assert last_rung(synthetic_runs.run(tmp_path, last=-1)) is None


def test_heads_are_told_apart_in_what_the_ranking_measures(tmp_path: Path):
    def verdict(by: str, report: int) -> bool:
        run = synthetic_runs.run(tmp_path, config_changes={"rank_by": by}, eval={"report": report})
        rows = {row.candidate: row for row in ranked(run.ranking)}
        return distinct(rows["convnext-d3-k7-noshortcut"], rows["own-d2"], run)

    assert verdict("discrepancy", 600)  # 0.262 against 0.043
    assert not verdict("accuracy", 600)  # 39.1 % against 34.3 %, each ± 3.9
    assert verdict("accuracy", 6000)
    assert verdict("balanced", 600)  # better in one, equal in the other


def test_a_head_that_trades_one_measure_for_the_other_is_not_shown_better(tmp_path: Path):
    run = synthetic_runs.run(
        tmp_path,
        heads={"a": ("mixer", 0.30, 0.30), "b": ("swin", 0.15, 0.40)},
        eval={"report": 100_000},
    )
    rows = {row.candidate: row for row in ranked(run.ranking)}
    assert not distinct(rows["a"], rows["b"], run)
    assert not distinct(rows["b"], rows["a"], run)


def test_ranking_without_labels_is_by_discrepancy(tmp_path: Path):
    run = synthetic_runs.run(tmp_path, labelled=False, config_changes={"rank_by": "accuracy"})
    assert rank_by(run) == "discrepancy"
    auto = synthetic_runs.run(tmp_path, config_changes={"rank_by": "auto"})
    assert rank_by(auto) == "accuracy"


def test_whether_the_base_has_learnt_is_judged_beyond_error(tmp_path: Path):
    def verdict(base: float, **facts: object) -> bool | None:
        baselines = {"base_knn": base, "untrained_knn": 0.262}
        return base_has_learnt(synthetic_runs.run(tmp_path, baselines=baselines, **facts))

    assert verdict(0.342) is True
    assert verdict(0.280) is False
    assert verdict(0.342, eval={}) is None
