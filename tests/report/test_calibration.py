"""Calibration of scores against gains: compared with scipy, formulas and simulated truths."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from headsearch.errors import UserError
from headsearch.report.calibration import calibration_table, calibration_words
from headsearch.report.statistics import agreement
from headsearch.report.statistics.agreement import _spearman
from headsearch.report.statistics.calibration import calibrate, calibrate_runs
from headsearch.report.statistics.other_data import gains_on_other_data
from headsearch.report.statistics.rank_correlation import tau_b
from headsearch.report.statistics.score_columns import SCORES, collapsed_last
from headsearch.runs.other_data import OTHER_DATA_RANKINGS
from headsearch.runs.run import Run
from headsearch.runs.tables import SOLO_COLUMNS
from helpers import synthetic_runs


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for what is claimed here; users get ten times as many for steady last digits."""
    monkeypatch.setattr(agreement, "RESAMPLES", 200)


def world(
    heads: int = 8, seeds: int = 3, searches: int = 2, *, noise: float = 0.0, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Simulated solo runs and scores: `good` is the truth plus noise, `bad` is noise, params_m is
    unrelated."""
    rng = np.random.default_rng(seed)
    truth, size, useless = rng.normal(0, 1, heads), rng.permutation(heads), rng.normal(0, 1, heads)
    solo = pd.DataFrame(
        {
            "candidate": f"h{h}",
            "family": f"f{h // 2}",
            "seed": s,
            "accuracy": truth[h] + 3 * s + noise * rng.normal(),
        }
        for h in range(heads)
        for s in range(seeds)
    )
    scores = pd.DataFrame(
        {
            "candidate": f"h{h}",
            "seed": z,
            "good": math.exp(truth[h] + noise * rng.normal()),
            "bad": useless[h] + rng.normal(),
            "params_m": float(size[h]),
        }
        for h in range(heads)
        for z in range(searches)
    )
    return solo, scores


def test_a_score_that_is_the_truth_agrees_in_full() -> None:
    found = calibrate(*world(), primary="good")
    good = found.agreements[0]
    assert (good.score, good.primary) == ("good", True)
    assert good.tau.value == pytest.approx(1)
    assert good.tau.low == pytest.approx(1)
    assert good.regret == 0
    assert good.best_in_top3 == 1
    assert good.seed_to_seed == pytest.approx(1)
    assert found.reliability == pytest.approx(1)
    assert found.ceiling == pytest.approx(1)


def test_tau_rho_and_p_are_those_of_scipy() -> None:
    solo, scores = world(6, noise=0.7)
    found = calibrate(solo, scores, primary="good").agreements[0]
    truth = solo.groupby("candidate")["accuracy"].mean().to_numpy()
    score = scores.groupby("candidate")["good"].mean().to_numpy()
    assert found.tau.value == pytest.approx(stats.kendalltau(score, truth).statistic)
    assert found.rho.value == pytest.approx(stats.spearmanr(score, truth).statistic)
    taus = [abs(tau_b(np.array(order), truth)) for order in permutations(score)]
    assert found.p == pytest.approx(np.mean(np.array(taus) >= abs(found.tau.value) - 1e-9))
    assert found.p == pytest.approx(stats.kendalltau(score, truth, method="exact").pvalue)


def test_the_correction_is_that_of_benjamini_and_hochberg_and_spares_the_primary() -> None:
    solo, scores = world(7, noise=0.5)
    as_primary = {
        name: next(a for a in calibrate(solo, scores, primary=name).agreements if a.score == name).p
        for name in ("good", "bad", "params_m")
    }
    found = {a.score: a.p for a in calibrate(solo, scores, primary="good").agreements}
    low, high = sorted([as_primary["bad"], as_primary["params_m"]])
    assert found["good"] == as_primary["good"]
    assert sorted([found["bad"], found["params_m"]]) == pytest.approx([min(2 * low, high), high])


def test_the_interval_covers_a_known_tau_and_does_not_shrink_to_0_by_ties() -> None:
    inside, middles = 0, []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=12)
        y = 0.8 * x + 0.6 * rng.normal(size=12)  # r = 0.8, so τ = (2/π) asin 0.8 = 0.59
        solo = pd.DataFrame(
            {"candidate": [f"h{i}" for i in range(12)], "family": [f"f{i % 5}" for i in range(12)],
             "seed": 0, "accuracy": y}
        )  # fmt: skip
        scores = pd.DataFrame({"candidate": solo["candidate"], "seed": 0, "score": x})
        found = calibrate(solo, scores, primary="score").agreements[0]
        inside += found.tau.low <= 2 / math.pi * math.asin(0.8) <= found.tau.high
        middles.append((found.tau.low + found.tau.high) / 2 - found.tau.value)
    assert inside >= 20
    assert abs(np.mean(middles)) < 0.08


def test_reliability_is_what_another_set_of_seeds_finds_again() -> None:
    """ICC(3, S) compared with the variances that the runs were simulated with."""
    estimates = [
        calibrate(*world(40, 4, noise=1.0, seed=seed), primary="good").reliability
        for seed in range(6)
    ]
    assert np.mean(estimates) == pytest.approx(1 / (1 + 1 / 4), abs=0.06)
    found = calibrate(*world(40, 4, noise=1.0), primary="good")
    assert found.ceiling == pytest.approx(
        2 / math.pi * math.asin(math.sqrt(found.reliability))
    )  # fmt: skip


def test_partial_tau_controls_for_the_number_of_parameters() -> None:
    solo, scores = world(10, noise=0.3)
    truth = solo.groupby("candidate")["accuracy"].mean()
    scores["params_m"] = scores["candidate"].map(truth)
    scores["good"] = scores["params_m"] ** 3
    by_name = {a.score: a for a in calibrate(solo, scores, primary="good").agreements}
    assert by_name["good"].tau.value == pytest.approx(1)
    assert math.isnan(by_name["params_m"].partial)
    noisy, own = world(10, noise=0.3)
    found = {a.score: a for a in calibrate(noisy, own, primary="good").agreements}["good"]
    x, y, z = (
        frame.groupby("candidate")[column].mean().to_numpy()
        for frame, column in ((own, "good"), (noisy, "accuracy"), (own, "params_m"))
    )
    xy, xz, yz = tau_b(x, y), tau_b(x, z), tau_b(y, z)
    expected = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    assert found.partial == pytest.approx(expected)


def test_regret_is_the_best_gain_minus_that_of_the_first_head() -> None:
    solo, scores = world()
    truth = solo.groupby("candidate")["accuracy"].mean()
    scores["bad"] = -scores["candidate"].map(truth)
    found = {a.score: a for a in calibrate(solo, scores, primary="good").agreements}["bad"]
    assert found.regret == pytest.approx(truth.max() - truth.min())
    assert found.regret_sd == pytest.approx((truth.max() - truth.min()) / truth.std())
    assert found.best_in_top3 == 0


def test_one_search_is_worth_the_mean_of_single_ones() -> None:
    solo, scores = world(searches=3, noise=0.8)
    truth = solo.groupby("candidate")["accuracy"].mean()
    found = calibrate(solo, scores, primary="good").agreements[0]
    single = [
        stats.kendalltau(one.set_index("candidate")["good"].loc[truth.index], truth).statistic
        for _, one in scores.groupby("seed")
    ]
    assert np.ptp(single) > 0
    assert found.tau_of_one_search == pytest.approx(np.mean(single))


def test_ranks_are_taken_within_each_search() -> None:
    rows = pd.DataFrame(
        {
            "candidate": ["a", "b", "c", "a", "b", "c"],
            "seed": [0, 0, 0, 1, 1, 1],
            "discrepancy": [0.1, 0.2, 0.3, 0.9, 0.8, 0.7],
            "choose_knn": [0.5, 0.4, 0.3, 0.1, 0.2, 0.3],
            "choose_linear": [0.5, 0.4, 0.3, 0.1, 0.2, 0.3],
        }
    )
    found = SCORES["mean_of_ranks"](rows)
    assert found.tolist() == pytest.approx([2 / 3] * 6)
    better = SCORES["mean_of_ranks"](rows.assign(choose_knn=[0.5, 0.8, 0.95, 0.1, 0.2, 0.3]))
    assert better.tolist()[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert better.tolist()[3:] == pytest.approx([2 / 3] * 3)


def test_leaving_a_family_out_gives_the_bounds() -> None:
    solo, scores = world(8, noise=0.8)
    found = calibrate(solo, scores, primary="good").agreements[0]
    x = scores.groupby("candidate")["good"].mean().to_numpy()
    y = solo.groupby("candidate")["accuracy"].mean().to_numpy()
    taus = [
        tau_b(np.delete(x, [2 * f, 2 * f + 1]), np.delete(y, [2 * f, 2 * f + 1])) for f in range(4)
    ]
    assert found.without_family == pytest.approx((min(taus), max(taus)))


def test_missing_cells_are_named() -> None:
    solo, scores = world()
    with pytest.raises(ValueError, match="accuracy is missing for h0 at seed 0"):
        calibrate(solo.iloc[1:], scores, primary="good")
    with pytest.raises(ValueError, match="four heads"):
        calibrate(solo[solo["candidate"] < "h3"], scores, primary="good")
    with pytest.raises(ValueError, match="none of"):
        calibrate(solo, scores, primary="best")


# runs ---------------------------------------------------------------------------------------------


def verified_run(path: Path, gains: dict[str, float]) -> Run:
    """A search without pruning, with solo runs of two seeds that have these gains."""
    states = dict.fromkeys(synthetic_runs.HEADS, ("complete", synthetic_runs.RUNGS, ""))
    rows = [
        {"candidate": name, "family": name.split("-")[0], "seed": seed,
         **dict.fromkeys(SOLO_COLUMNS[3:], 0.4 + gain + 0.01 * seed)}
        for name, gain in {"none": 0.0, **gains}.items()
        for seed in (0, 1)
    ]  # fmt: skip
    return replace(synthetic_runs.run(path, states=states), solo=pd.DataFrame(rows))


GAINS = {name: discrepancy for name, (_, discrepancy, _) in synthetic_runs.HEADS.items()}
HEADS = [name for name in GAINS if name not in ("own-d2", "identity")]


def test_the_scores_of_a_run_are_those_of_its_last_rung(tmp_path: Path) -> None:
    found = calibrate_runs([verified_run(tmp_path, GAINS)], "balanced")
    by_name = {each.score: each for each in found.agreements}
    assert found.heads == len(HEADS)
    assert by_name["discrepancy"].tau.value == pytest.approx(1)
    assert by_name["params_m"].tau.value == pytest.approx(1)
    accuracy = [synthetic_runs.HEADS[name][2] for name in HEADS]
    expected = stats.kendalltau(accuracy, [GAINS[name] for name in HEADS]).statistic
    assert by_name["head_knn"].tau.value == pytest.approx(expected)
    assert math.isfinite(by_name["balanced"].rung_to_rung)
    assert not by_name["discrepancy"].primary
    table = calibration_table(found)
    assert table.rows[0][0] == "balanced (primary)"
    assert "It ranks better than chance." in calibration_words(found)


def test_heads_that_were_not_verified_or_were_pruned_are_left_out(tmp_path: Path) -> None:
    some = dict(list(GAINS.items())[:6])
    assert calibrate_runs([verified_run(tmp_path, some)], "balanced").heads == 6
    pruned = replace(synthetic_runs.run(tmp_path), solo=verified_run(tmp_path, GAINS).solo)
    with pytest.raises(UserError, match="four heads or more"):  # three of them are left
        calibrate_runs([pruned], "balanced")
    with pytest.raises(UserError, match="did you mean 'balanced'"):
        calibrate_runs([verified_run(tmp_path, GAINS)], "balancd")
    with pytest.raises(UserError, match="headsearch verify RUN"):
        calibrate_runs([verified_run(tmp_path, dict(list(GAINS.items())[:3]))], "balanced")


def test_collapsed_heads_rank_last_by_every_score_but_their_size() -> None:
    table = pd.DataFrame(
        [
            {"candidate": "a", "seed": 0, "rung": 1, "params_m": 1.0},
            {"candidate": "gone", "seed": 0, "rung": 1, "params_m": 9.0},
            {"candidate": "a", "seed": 0, "rung": 2, "params_m": 1.0},
        ]
    )
    scores = pd.DataFrame([{"candidate": "a", "seed": 0, "good": -3.0, "params_m": 1.0}])
    found = collapsed_last(scores, table).set_index("candidate")
    assert list(found.index) == ["a", "gone"]
    assert found.loc["gone", "good"] < found.loc["a", "good"] == -3.0
    assert found.loc["gone", "params_m"] == 9.0


def test_rho_of_every_resample_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (20, 7)).astype(float), rng.normal(size=(20, 7))
    x[3] = 1.0  # all equal: there is no ρ
    found = _spearman(x, y)
    assert math.isnan(found[3])
    want = [stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    assert np.delete(found, 3) == pytest.approx(np.delete(want, 3))


def test_scores_are_compared_with_gains_in_a_dense_task(tmp_path: Path) -> None:
    run = verified_run(tmp_path, GAINS)
    opposite = run.solo.assign(base_det_ap50=0.9 - run.solo["base_knn"])
    run = replace(run, solo=opposite)
    by_accuracy = calibrate_runs([run], "discrepancy").agreements
    by_detection = calibrate_runs([run], "discrepancy", gain="detection").agreements
    taus = [
        next(each.tau.value for each in found if each.score == "discrepancy")
        for found in (by_accuracy, by_detection)
    ]
    assert taus == pytest.approx([1, -1])
    with pytest.raises(UserError, match="did you mean 'detection'"):
        calibrate_runs([run], "discrepancy", gain="detectoin")
    bare = replace(run, solo=run.solo.assign(base_det_ap50=math.nan))
    with pytest.raises(UserError, match="search and verify with --dense-data"):
        calibrate_runs([bare], "discrepancy", gain="detection")


def test_the_report_gives_the_gains_in_dense_tasks(tmp_path: Path) -> None:
    found = gains_on_other_data(verified_run(tmp_path, {"mixer-d2-r4": 0.02, "swin-d2-w4": -0.01}))
    assert set(found) == set(OTHER_DATA_RANKINGS)
    assert found["masks"]["mixer-d2-r4"].value == pytest.approx(0.02)
    assert found["segmentation"]["swin-d2-w4"].value == pytest.approx(-0.01)
    assert gains_on_other_data(synthetic_runs.run(tmp_path)) == {}
