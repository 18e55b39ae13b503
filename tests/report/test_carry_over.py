"""The analysis of the carry-over benchmark, on made-up benchmarks whose answer is known."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = ("agreement", "analyse", "figures", "published", "settings", "stopping", "tables")
HEADS = ["own-d2", *(f"h{index}-d2" for index in range(13))]
SCORES = ("score", "discrepancy", "cka", "mutual_knn", "procrustes", "choose_knn", "choose_linear",
          "base_choose_knn", "base_choose_linear", "effective_rank", "complementarity",
          "head_only_right", "discrepancy_pooled", "absorption", "predicted_gain", "static_prior",
          "params_m", "gflops")  # fmt: skip


def drawn(module: ModuleType, truths: dict[str, Any], scores: dict[str, Any]) -> Figure:
    with module.plotting():
        figure: Figure = module.gains(truths, scores, "Head accuracy (%)")
    return figure


@pytest.fixture(scope="module")
def bench() -> Iterator[SimpleNamespace]:
    """The scripts, as modules; other modules may have names as plain as `tables`."""
    path, before = list(sys.path), set(sys.modules)
    sys.path[:0] = [str(BENCHMARKS / "carry_over"), str(BENCHMARKS)]
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in SCRIPTS})
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def world(
    bench: SimpleNamespace, r: float, *, noise: float = 0.2, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Gains of every setting, and accuracies of heads that correlate with them by r.

    All other scores are noise.
    """
    rng = np.random.default_rng(seed)
    solo, searches = [], []
    for setting in bench.settings.SETTINGS:
        gain = rng.normal(0, 1, len(HEADS))
        score = r * gain + math.sqrt(1 - r**2) * rng.normal(0, 1, len(HEADS))
        for s in (0, 1):
            luck = rng.normal()
            accuracy = {"none": 0.3, **dict(zip(HEADS, 0.3 + 0.01 * gain, strict=True))}
            for head, value in accuracy.items():
                measured = value + 0.01 * (luck + noise * rng.normal())
                solo.append({"protocol": 1, "setting": setting, "candidate": head, "seed": s,
                             "ended": "complete", "base_knn": measured, "base_linear": measured,
                             "wall_s": 1})  # fmt: skip
            for coupling, last in (("observe", 4), ("joint", 2)):
                for rung in range(last + 1):
                    for head, value in zip(HEADS, score, strict=True):
                        row = {name: rng.normal() for name in SCORES}
                        base = 0.1 + 0.1 * (rung > 0)
                        row |= {"choose_knn": value, "choose_linear": value,
                                "base_choose_knn": base, "base_choose_linear": base}  # fmt: skip
                        if rung not in (1, 2):
                            row["absorption"] = math.nan
                        searches.append({"protocol": 1, "setting": setting, "coupling": coupling,
                                         "seed": s, "rung": rung, "candidate": head,
                                         "cost": 1.2 * rung, "wall_s": 1, **row})  # fmt: skip
    return pd.DataFrame(solo), pd.DataFrame(searches)


def truths_of(bench: SimpleNamespace, solo: pd.DataFrame) -> dict[str, Any]:
    return {name: bench.tables.truth_of(rows) for name, rows in solo.groupby("setting", sort=False)}


@pytest.mark.parametrize(("r", "passes"), [(0.92, True), (0.4, False)])
def test_a_score_that_predicts_gains_passes_and_a_weak_one_does_not(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, r: float, passes: bool
) -> None:
    monkeypatch.setattr(bench.agreement, "RESAMPLES", 500)
    monkeypatch.setattr(bench.agreement, "RANDOM_ORDERS", 50)
    solo, searches = world(bench, r)
    tables = bench.analyse.analysis(truths_of(bench, solo), searches)
    summary = tables["summary"].set_index(["score", "coupling"])
    primary = summary.loc[("head_accuracy", "observe")]
    # Of a normal pair, τ = (2/π) asin r.
    assert primary["tau"] == pytest.approx(2 / math.pi * math.asin(r), abs=0.12)
    assert (primary["low"] > bench.analyse.LEAST) == passes
    word = ": success" if passes else ": no success"
    assert bench.analyse.verdict(tables["summary"]).endswith(word)
    assert summary.loc[("effective_rank", "observe"), "low"] < 0.1
    assert summary.loc[("params_m", "none"), "cost"] == 0
    assert primary["cost"] == pytest.approx(4.8)
    by_chance = summary.loc[("random", "none")]
    assert by_chance["low"] < 0 < by_chance["high"]
    assert by_chance["regret_1"] > primary["regret_1"]
    # Of 14 heads, the best is among three random ones with probability 3/14.
    assert by_chance["top_3"] == pytest.approx(3 / 14, abs=0.06)
    assert set(tables["rungs"]["rung"]) == {1, 2, 3, 4}
    assert len(tables["tau"].query("score == 'head_accuracy' and coupling == 'observe'")) == 7


def test_tau_of_a_setting_is_counted_pair_by_pair(bench: SimpleNamespace) -> None:
    solo, searches = world(bench, 0.7)
    truths = truths_of(bench, solo)
    scores = bench.tables.scores_at(searches, truths, "observe", 4)["head_accuracy"]
    name, truth = next(iter(truths.items()))
    counted = []
    for score in scores[name].T:
        pairs = list(combinations(range(len(HEADS)), 2))
        signs = [np.sign((score[a] - score[b]) * (truth.gain_H[a] - truth.gain_H[b]))
                 for a, b in pairs]  # fmt: skip
        counted.append(sum(signs) / len(pairs))
    assert bench.agreement.tau_of(truth, scores[name]) == pytest.approx(np.mean(counted))


def test_a_resample_counts_a_head_as_often_as_it_was_drawn(bench: SimpleNamespace) -> None:
    rng = np.random.default_rng(3)
    gain, score = rng.normal(size=5), rng.normal(size=(5, 1))
    counts = np.array([[2.0, 0, 1, 1, 1]])
    drawn = [0, 0, 2, 3, 4]
    pairs = [(a, b) for a, b in combinations(drawn, 2) if a != b]
    signs = [np.sign((gain[a] - gain[b]) * (score[a, 0] - score[b, 0])) for a, b in pairs]
    found = bench.agreement._weighted_tau(gain, score, counts)
    assert found == pytest.approx([sum(signs) / len(pairs)])


def test_the_interval_holds_the_truth_as_often_as_it_says(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.agreement, "RESAMPLES", 400)
    held = 0
    for seed in range(20):
        solo, searches = world(bench, 0.7, noise=0.0, seed=seed)
        truths = truths_of(bench, solo)
        scores = bench.tables.scores_at(searches, truths, "observe", 4)["head_accuracy"]
        found = bench.agreement.interval_of_mean(truths, scores)
        held += found["low"] <= 2 / math.pi * math.asin(0.7) <= found["high"]
    assert held >= 17  # 19 are expected; 16 or fewer come by chance in 2 of 100 cases


def test_regret_and_first_three_are_those_of_the_gains(bench: SimpleNamespace) -> None:
    gain = np.array([0.03, 0.01, 0.02, 0.00])
    score = np.array([0.1, 0.9, 0.8, 0.7])
    assert bench.agreement.regret(gain, score, first=1) == pytest.approx(2)
    assert bench.agreement.regret(gain, score, first=3) == pytest.approx(1)
    assert bench.agreement.regret(gain, gain, first=1) == 0


def test_collapsed_heads_rank_last_and_diverged_ones_gain_least(bench: SimpleNamespace) -> None:
    solo, searches = world(bench, 0.9)
    name = next(iter(bench.settings.SETTINGS))
    gone = (searches["setting"] == name) & (searches["candidate"] == "h3-d2")
    searches = searches[~(gone & (searches["rung"] > 1))]
    lost = (solo["setting"] == name) & (solo["candidate"] == "h5-d2")
    solo.loc[lost, ["base_knn", "base_linear"]] = math.nan
    truth = truths_of(bench, solo)[name]
    scores = bench.tables.scores_at(searches, {name: truth}, "observe", 4)
    at = truth.heads.index("h3-d2")
    assert all(scores[score][name][at].max() < np.delete(scores[score][name], at, 0).min()
               for score in ("head_accuracy", "discrepancy", "complementarity"))  # fmt: skip
    assert truth.gain_H.argmin() == truth.heads.index("h5-d2")


def test_the_prior_and_the_refitted_model_do_not_see_their_own_setting(
    bench: SimpleNamespace,
) -> None:
    solo, searches = world(bench, 0.9)
    truths = truths_of(bench, solo)
    last = bench.tables.scores_at(searches, truths, "observe", 4)
    name = next(iter(truths))
    opposite = bench.tables.Truth(truths[name].heads, -truths[name].gain_HS)
    changed = {**truths, name: opposite}
    for make in (bench.analyse.without_search, lambda t: bench.analyse.refitted(t, last)):
        for score, by_setting in make(truths).items():
            again = make(changed)[score]
            assert np.array_equal(by_setting[name], again[name])
            other = next(setting for setting in truths if setting != name)
            assert not np.array_equal(by_setting[other], again[other])


@pytest.mark.parametrize(
    ("orders", "rung"),
    [
        (["abcdef", "abcdef", "fedcba", "fedcba"], 2),
        (["abcdef", "badcef", "fedcba", "fedcba"], 2),  # 2 pairs of 15 are exchanged: τ is 0.73
        (["abcdef", "badcfe", "badcef", "badcef"], 3),  # 3 pairs: τ is 0.6
        (["abcdef", "fedcba", "abcdef", "abcdef"], 4),
        (["abcdef", "fedcba", "abcdef", "fedcba"], 4),  # never
    ],
)
def test_a_search_has_settled_where_the_order_of_its_heads_hardly_changes(
    bench: SimpleNamespace, orders: list[str], rung: int
) -> None:
    scores = np.array([[-order.index(head) for head in "abcdef"] for order in orders])
    learned = np.array([0.1, *([0.2] * len(scores))])
    assert bench.stopping.settled_rung(scores, learned, 5000) == rung
    # At rung 2 the base is not above untrained beyond error, which is 1.2 points of 5,000 images.
    late = np.array([0.1, 0.1, 0.11, 0.2, 0.2])
    assert bench.stopping.settled_rung(scores, late, 5000) == (4 if rung == 2 else rung)


def test_what_stopping_early_keeps_is_that_of_the_rungs_where_searches_settled(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.agreement, "RESAMPLES", 200)
    solo, searches = world(bench, 0.9)
    truths = truths_of(bench, solo)
    # A world in which scores are the same at all rungs: settled at once, at half the cost.
    table = bench.stopping.stops(truths, searches)
    assert len(table) == 2 * len(truths)
    assert set(table["rung"]) == {2}
    assert table["tau"].tolist() == table["tau_last"].tolist()
    assert (table["cost"] / table["cost_last"]).tolist() == [0.5] * len(table)
    said = bench.stopping.verdict_on_stopping(truths, searches)
    assert "1.00 of τ (1.00 to 1.00) at 0.50 of the cost" in said
    assert said.endswith(": borne out")
    # And one in which the order is turned round at rung 3: what was settled at 2 keeps nothing.
    late = searches["rung"] > 2
    early = searches.assign(
        **{
            name: searches[name].where(late, -searches[name])
            for name in ("choose_knn", "choose_linear")
        }
    )
    table = bench.stopping.stops(truths, early)
    assert table["tau"].tolist() == [-tau for tau in table["tau_last"]]
    assert bench.stopping.verdict_on_stopping(truths, early).endswith(": not borne out")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.rstrip("\n")[:-30] + "\n", "the row is cut short"),
        (lambda text: text + text.splitlines()[-1] + "\n", "a second row of"),
        (lambda text: text.replace("\n1,", "\n2,", 1), "line 2: protocol 2, but this is 1"),
        (lambda text: text.replace("setting", "sitting", 1), "no column setting"),
        (lambda text: "", "No columns"),
    ],
)
def test_damaged_tables_are_named_and_refused(
    bench: SimpleNamespace, tmp_path: Path, damage: Any, message: str
) -> None:
    solo, _ = world(bench, 0.9)
    path = tmp_path / "solo.csv"
    solo.to_csv(path, index=False)
    path.write_text(damage(path.read_text()))
    with pytest.raises(SystemExit, match=message) as refused:
        bench.tables.read_checked(path, ["setting", "candidate", "seed"])
    assert str(path) in str(refused.value)


def test_no_score_is_analysed_while_runs_are_missing(
    bench: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    solo, searches = world(bench, 0.9)
    last = list(bench.settings.SETTINGS)[-1]
    solo = solo[~((solo["setting"] == last) & (solo["candidate"] == "h1-d2"))]
    solo.to_csv(tmp_path / "solo.csv", index=False)
    searches.to_csv(tmp_path / "searches.csv", index=False)
    monkeypatch.setattr(bench.analyse, "heads_of", lambda setting: HEADS)
    monkeypatch.setattr(sys, "argv", ["analyse.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="2 runs are missing"):
        bench.analyse.main()
    assert capsys.readouterr().out.count("reliability") == 6
    assert not list(tmp_path.glob("summary.csv"))


def test_finished_settings_become_published_gains_and_unfinished_ones_do_not(
    bench: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.published, "heads_of", lambda setting: HEADS)
    solo, searches = world(bench, 0.9)
    searches["family"] = searches["candidate"].str.split("-").str[0]
    solo[["choose_knn", "choose_linear"]] = solo[["base_knn", "base_linear"]] + 0.1
    gone = (searches["candidate"] == "h3-d2") & (searches["rung"] == 4)
    searches = searches[~gone]
    solo.to_csv(tmp_path / "solo.csv", index=False)
    searches.to_csv(tmp_path / "searches.csv", index=False)
    rows = bench.published.published_rows(tmp_path)
    assert len(rows) == 7 * len(HEADS)
    truths = truths_of(bench, solo)
    for setting, table in rows.groupby("setting"):
        by_head = table.set_index("candidate").loc[list(truths[setting].heads)]
        assert by_head["gain"].to_numpy() == pytest.approx(truths[setting].gain_H)
        assert by_head.index[by_head["advantage"].isna()].tolist() == ["h3-d2"]
    of_one = rows[rows["candidate"] == "h1-d2"].set_index("setting")
    assert of_one["family"].unique().tolist() == ["h1"]
    assert of_one.loc["vit64-simclr-tiny", ["width", "tokens", "steps"]].tolist() == [64, 64, 468]
    assert of_one.loc["vit-dino-cifar", ["width", "tokens", "steps"]].tolist() == [96, 16, 936]
    assert set(of_one["tokens"].drop("vit64-simclr-tiny")) == {16}
    last = searches.query(
        "setting == 'vit-dino-cifar' and coupling == 'observe' and rung == 4 and "
        "candidate == 'h1-d2'"
    )
    assert of_one.loc["vit-dino-cifar", "discrepancy"] == pytest.approx(last["cka"].mean())
    assert of_one.loc["vit-dino-cifar", "advantage"] == pytest.approx(
        (last["choose_linear"] - last["base_choose_linear"]).mean()
    )
    solo[1:].to_csv(tmp_path / "solo.csv", index=False)
    assert bench.published.published_rows(tmp_path).empty


def test_a_panel_for_each_setting_has_a_marker_for_each_head(bench: SimpleNamespace) -> None:
    solo, searches = world(bench, 0.9)
    truths = truths_of(bench, solo)
    scores = bench.tables.scores_at(searches, truths, "observe", 4)["head_accuracy"]
    panels = drawn(bench.figures, truths, scores).axes[: len(truths)]
    for axes, (setting, truth) in zip(panels, truths.items(), strict=True):
        assert axes.get_title() == setting
        points = [line.get_xydata()[0] for line in axes.lines if line.get_marker() != "None"]
        expected = np.column_stack([scores[setting].mean(axis=1), truth.gain_H])
        assert np.array(points) == pytest.approx(100 * expected)


def test_scores_are_drawn_from_the_largest_tau_down(bench: SimpleNamespace) -> None:
    rows = [("discrepancy", "observe", 0.5), ("head_accuracy", "observe", 0.2),
            ("head_accuracy", "joint", 0.6), ("static_prior", "none", 0.1)]  # fmt: skip
    summary = pd.DataFrame(
        {"score": s, "coupling": c, "tau": t, "low": t - 0.1, "high": t + 0.1} for s, c, t in rows
    )
    with bench.figures.plotting():
        (axes,) = bench.figures.forest(summary).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "static_prior", "head_accuracy", "discrepancy", "head_accuracy (joint)",
    ]  # fmt: skip
