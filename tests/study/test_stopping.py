"""`--stop settled`: the search ends where the order of its heads has settled, and says so."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from headsearch.cluster.search import check_can_be_spread
from headsearch.errors import UserError
from headsearch.report.document import write_report
from headsearch.runs.run import Run, read_run
from headsearch.study import stopping
from headsearch.study.events import Noted, Scored
from headsearch.study.resuming import resumed_search
from headsearch.study.search import Search
from headsearch.study.stopping import order_agreement
from helpers.tiny_search import begun

SPACE = """
families:
  convnext: {depth: 1, kernel: [3, 5]}
  poolformer: {depth: [1, 2, 3]}
  mixer: {depth: [1, 2, 3]}
controls:
  identity:
"""
TINY: dict[str, Any] = {"space": SPACE, "cohort": 5, "min_keep": 3, "rungs": 4}
"""Two cohorts; in each, three heads are left after the first rung."""
TIMES = ["step_ms"]


def agreements(monkeypatch: pytest.MonkeyPatch, by_rung: dict[int, float]) -> list[int]:
    """Makes the orders at these rungs agree so well; returns the rungs that are asked about."""
    asked: list[int] = []

    def made_up(rows: Any, heads: Any, rung: int) -> float:
        asked.append(rung)
        return by_rung[rung]

    monkeypatch.setattr(stopping, "order_agreement", made_up)
    return asked


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny bases learn nothing in their few steps: here they count as learned."""
    monkeypatch.setattr(stopping, "has_learned", lambda untrained, now, images: True)


def searched(tmp_path: Path, name: str, **changes: Any) -> Run:
    search = Search(begun(tmp_path, name, **{**TINY, **changes}))
    search.run()
    return read_run(search.run_directory)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return searched(tmp_path_factory.mktemp("whole"), "run")


def test_heads_of_all_cohorts_end_at_the_rung_where_the_first_has_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Run, learned: None
) -> None:
    asked = agreements(monkeypatch, {2: 0.69, 3: 0.7})
    said: list[str] = []
    search = Search(begun(tmp_path, "run", **TINY, stop="settled"))
    search.run(lambda event: said.append(event.text) if isinstance(event, Noted) else None)
    run = read_run(search.run_directory)
    assert asked == [2, 3]  # not at the second cohort
    note = (
        "stopped at rung 3 of 4: the order of the heads has settled (Kendall's τ 0.70 with that "
        "at rung 2)"
    )
    assert said == [note]
    assert run.rungs["cohort"].nunique() == 2
    assert run.rungs.groupby("cohort")["rung"].max().tolist() == [3, 3]
    # Up to there, it is the search that goes on to its end.
    before = whole.rungs[whole.rungs["rung"] <= 3].reset_index(drop=True)
    pd.testing.assert_frame_equal(run.rungs, before, check_exact=True)
    reached = run.ranking["rungs"] == 3
    assert set(run.ranking.loc[reached, "state"]) == {"complete"}
    assert set(run.ranking.loc[~reached, "state"]) == {"pruned"}
    facts = run.facts
    assert facts["status"] == "complete"
    assert facts["rung_count"] == 3
    assert facts["settled"] is not None
    assert facts["settled"]["of"] == 4
    assert facts["cost_base_equivalents"] < whole.facts["cost_base_equivalents"]
    assert search.state.throughput.seconds_left == 0
    write_report(run)
    report = (run.path / "report.md").read_text()
    assert "stopped at rung 3 of 4, because the order of the heads had settled" in report
    assert "rung 3 of 3 scored" in report
    assert f"{facts['settled']['step']} of {facts['steps']}" in report


def test_a_search_whose_order_does_not_settle_goes_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Run, learned: None
) -> None:
    asked = agreements(monkeypatch, {2: -0.2, 3: float("nan")})
    run = searched(tmp_path, "run", stop="settled")
    assert asked == [2, 3]
    pd.testing.assert_frame_equal(run.rungs, whole.rungs, check_exact=True)
    pd.testing.assert_frame_equal(
        run.ranking.drop(columns=TIMES), whole.ranking.drop(columns=TIMES), check_exact=True
    )
    assert run.facts["settled"] is None
    assert run.facts["rung_count"] == 4


@pytest.mark.parametrize("stopped_at", [(0, 2), (1, 0), (1, 1)])
def test_a_search_that_is_interrupted_ends_where_it_would_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: tuple[int, int], learned: None
) -> None:
    agreements(monkeypatch, {2: 0.8})
    expected = searched(tmp_path, "at once", stop="settled")
    search = Search(begun(tmp_path, "in two", **TINY, stop="settled"))

    def stop(event: object) -> None:
        if isinstance(event, Scored) and (event.cohort, event.rung) == stopped_at:
            search.stop.set()

    search.run(stop)
    left = read_run(search.run_directory)
    assert left.facts["status"] == "interrupted"
    again = resumed_search(left)
    again.run()
    run = read_run(search.run_directory)
    pd.testing.assert_frame_equal(run.rungs, expected.rungs, check_exact=True)
    assert run.facts["settled"] == expected.facts["settled"]
    assert run.facts["status"] == "complete"
    assert again.state.throughput.seconds_left == 0


def test_the_rule_is_that_of_the_scores_which_rank(tmp_path: Path, learned: None) -> None:
    run = searched(
        tmp_path, "run", rungs=6, epochs=4, stop="settled", cohort=9, seeds=2, pruner="none"
    )
    controls = set(run.ranking.loc[run.ranking["family"] == "identity", "candidate"])
    rows = run.scores[~run.scores["candidate"].isin(controls)]
    means = rows.pivot_table(index="candidate", columns="rung", values="score", aggfunc="mean")
    settled = [rung for rung in range(2, 6) if rung in means and pairs(means, rung) >= 0.7]
    if settled:
        assert run.facts["settled"]["rung"] == settled[0] == run.rungs["rung"].max()
        assert run.facts["settled"]["agreement"] == pytest.approx(pairs(means, settled[0]))
    else:
        assert run.facts["settled"] is None
        assert run.rungs["rung"].max() == 6


def pairs(means: pd.DataFrame, rung: int) -> float:
    """Kendall's τ-b with the rung before, counted pair by pair."""
    before, now = means[rung - 1].to_numpy(), means[rung].to_numpy()
    signs = np.array(
        [(np.sign(before[a] - before[b]), np.sign(now[a] - now[b]))
         for a, b in combinations(range(len(now)), 2)]
    )  # fmt: skip
    return float(signs.prod(axis=1).sum() / np.sqrt(np.abs(signs).sum(axis=0).prod()))


def test_the_agreement_is_counted_pair_by_pair_over_means_of_seeds() -> None:
    scores = {"a": (3, 1, 2, 2), "b": (2, 2, 3, 3), "c": (1, 1, 1, 3), "d": (0, 1, 0, 0)}
    rows = [
        {"candidate": name, "seed": seed, "rung": rung, "score": values[2 * (rung - 4) + seed]}
        for name, values in scores.items()
        for rung in (4, 5)
        for seed in (0, 1)
    ]
    means = pd.DataFrame(rows).pivot_table(index="candidate", columns="rung", values="score")
    assert order_agreement(rows, scores, 5) == pytest.approx(pairs(means, 5))
    assert order_agreement(rows, {"a", "b", "d"}, 5) == pytest.approx(
        pairs(means.drop(index="c"), 5)
    )


@pytest.mark.parametrize(
    ("untrained", "now", "images", "learned"),
    [
        (0.10, 0.12, 5000, True),
        (0.10, 0.11, 5000, False),  # 95 % of the differences by chance are within 1.2 points
        (0.10, 0.12, 300, False),
        (0.20, 0.10, 5000, False),
        (math.nan, math.nan, 64, True),  # no labels
    ],
)
def test_a_base_has_learned_where_it_is_above_untrained_beyond_error(
    untrained: float, now: float, images: int, learned: bool
) -> None:
    assert stopping.has_learned(untrained, now, images) == learned


def test_a_search_whose_base_has_learned_nothing_goes_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agreements(monkeypatch, {2: 1.0, 3: 1.0})
    asked = []
    monkeypatch.setattr(stopping, "has_learned", lambda *figures: asked.append(figures))
    run = searched(tmp_path, "run", stop="settled")
    assert run.facts["settled"] is None
    rows = run.scores[run.scores["candidate"].isin(run.rungs.query("cohort == 0")["candidate"])]
    base = rows.groupby("rung")[["base_choose_knn", "base_choose_linear"]].mean().mean(axis=1)
    choosing = run.facts["eval"]["choose"]
    assert asked == [(pytest.approx(base[0]), pytest.approx(base[rung]), choosing)
                     for rung in (2, 3)]  # fmt: skip


def test_without_labels_the_order_alone_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agreements(monkeypatch, {2: 1.0})
    images = tmp_path / "images"
    images.mkdir()
    for index in range(120):
        pixels = torch.randint(0, 256, (16, 16, 3), generator=torch.Generator().manual_seed(index))
        Image.fromarray(pixels.to(torch.uint8).numpy()).save(images / f"{index}.png")
    run = searched(tmp_path, "run", stop="settled", data=str(images), eval_images=40)
    assert run.facts["labelled"] is False
    assert run.rungs["rung"].max() == 2


def test_of_two_heads_the_order_says_too_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learned: None
) -> None:
    asked = agreements(monkeypatch, {2: 1.0})
    space = "families:\n  mixer: {depth: [1, 2]}\n"  # and three controls
    run = searched(tmp_path, "run", space=space, cohort=8, stop="settled")
    assert asked == []
    assert run.rungs["rung"].max() == 4


def test_an_engine_trains_cohorts_at_the_same_time_and_refuses_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--stop settled lets the first cohort decide"):
        check_can_be_spread(begun(tmp_path, "run", stop="settled"), 1)
