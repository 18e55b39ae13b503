"""Every score that candidates can be ranked by: in scores.csv, in the ranking and in the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from headsearch.config.settings import resolve
from headsearch.errors import UserError
from headsearch.report.content import content
from headsearch.report.statistics.ranking import rank_by
from headsearch.report.statistics.score_columns import search_scores
from headsearch.runs.rank_by import RANK_BY
from headsearch.runs.run import Run, read_run
from headsearch.runs.tables import FURTHER_SCORES, SCORE_COLUMNS, TOP5
from headsearch.study.search import Search
from headsearch.study.setup import prepare
from helpers import tiny_search


def searched(tmp_path: Path, **changes: Any) -> Run:
    settings = {"coupling": "observe", "cohort": 8, **changes}
    search = Search(tiny_search.begun(tmp_path, "run", **settings))
    search.run()
    return read_run(search.run_directory)


OF_WHOLE_IMAGES = sorted(name for name, each in RANK_BY.items() if not each.other_data)
"""Those of dense tasks are in test_dense_search.py."""


@pytest.mark.parametrize("name", OF_WHOLE_IMAGES)
def test_heads_are_ranked_by_it_and_the_report_says_so(tmp_path: Path, name: str) -> None:
    short = {"epochs": 1, "rungs": 1, "pruner": "none"}  # all go on, so all are ranked
    found = searched(tmp_path, rank_by=name, **short)
    last = found.scores[found.scores["rung"] == 1].set_index("candidate")
    accuracy = last[["choose_knn", "choose_linear"]].mean(axis=1)
    computed = {
        "accuracy": accuracy,
        "balanced": (last["discrepancy"].clip(lower=0) * accuracy).pow(0.5),
    }
    score = computed[name] if name in computed else last[name]
    assert last["score"].tolist() == pytest.approx(score.tolist(), rel=1e-4)
    finalists = found.ranking[found.ranking["state"] == "complete"]
    assert len(finalists) > 2
    assert list(finalists["score"]) == sorted(finalists["score"], reverse=True)
    assert rank_by(found) == name
    assert found.words.say(RANK_BY[name].words) in content(found).legend
    # Two epochs are too short for the budget, so it is measured only where it decides.
    assert last["absorption"].notna().all() == (name == "absorption")
    everywhere = found.scores[sorted(FURTHER_SCORES.keys() - {"absorption"})]
    assert everywhere.notna().all(axis=None)


def test_candidates_can_be_ranked_by_every_further_score() -> None:
    assert FURTHER_SCORES.keys() < set(RANK_BY)


def test_scores_that_measure_a_difference_are_zero_for_identity(tmp_path: Path) -> None:
    of_identity = searched(tmp_path).scores.set_index("candidate").loc["identity"]
    for name in ("complementarity", "head_only_right", "discrepancy_pooled"):
        assert of_identity[name].abs().max() < 1e-6, name


def test_absorption_is_measured_at_two_rungs_of_a_search_that_is_long_enough(
    tmp_path: Path,
) -> None:
    # With two heads a batch costs 5.3 steps at both rungs together, so 5 % of 108 steps pay for it.
    space = "families: {mixer: {depth: 1}, poolformer: {depth: 1}}\ncontrols: {}\n"
    scores = searched(tmp_path, epochs=36, space=space).scores
    assert set(scores.loc[scores["absorption"].notna(), "rung"]) == {1, 2}


def test_absorption_of_joined_heads_has_no_meaning(tmp_path: Path) -> None:
    assert searched(tmp_path, coupling="joint").scores["absorption"].isna().all()
    settings = tiny_search.settings(tmp_path, rank_by="absorption", out=tmp_path / "other")
    with pytest.raises(UserError, match="--rank-by absorption needs --coupling observe"):
        prepare(resolve(settings))
    assert not (tmp_path / "other").exists()


def test_an_unknown_score_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    settings = tiny_search.settings(tmp_path, rank_by="complementary")
    with pytest.raises(UserError, match="did you mean 'complementarity'"):
        prepare(resolve(settings))


def test_a_run_of_the_first_version_lacks_the_later_columns(tmp_path: Path) -> None:
    run = searched(tmp_path)
    table = run.scores.drop(columns=sorted(FURTHER_SCORES))
    table.to_csv(run.path / "scores.csv", index=False)
    old = read_run(run.path)
    assert set(old.scores.columns) == set(SCORE_COLUMNS)
    assert old.scores[sorted(FURTHER_SCORES)].isna().all(axis=None)
    assert old.scores["score"].tolist() == pytest.approx(run.scores["score"].tolist(), rel=1e-4)
    assert len(search_scores(old)) == len(search_scores(run))
    assert run.rungs[list(TOP5)].notna().all(axis=None)  # scenes have ten classes
    assert (run.rungs["head_top5"] >= run.rungs["head_linear"]).all()
    run.rungs.drop(columns=list(TOP5)).to_csv(run.path / "rungs.csv", index=False)
    assert read_run(run.path).rungs[list(TOP5)].isna().all(axis=None)
