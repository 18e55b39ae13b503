"""Dense scores of a search: tables, baselines, report, resuming, and what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import headsearch
from headsearch.config.settings import resolve
from headsearch.data.dense import built_in
from headsearch.errors import UserError
from headsearch.report.dense import pareto_front
from headsearch.report.document import write_report
from headsearch.report.statistics.dense import dense_scores, difference, not_above, of_head
from headsearch.runs.dense_scores import BASE_DENSE, DENSE_RANKINGS, DENSE_SCORES
from headsearch.runs.dense_table import read_dense
from headsearch.runs.run import Run, read_run
from headsearch.study.search import Search
from headsearch.study.setup import prepare
from helpers import dense_files, tiny_search

pytestmark = pytest.mark.usefixtures("small_dense_sets")
SPACE = """
families: {attention: {depth: 1}, convnext: {depth: 1, kernel: 3}, mixer: {depth: 1}}
controls: {identity: }
"""


def begun(tmp_path: Path, name: str = "run", **changes: Any) -> Search:
    settings = {"coupling": "observe", "dense_data": "scenes-things", "epochs": 2, "rungs": 2}
    return Search(tiny_search.begun(tmp_path, name, SPACE, **{**settings, **changes}))


def searched(tmp_path: Path, name: str = "run", **changes: Any) -> Run:
    search = begun(tmp_path, name, **changes)
    search.run()
    return read_run(search.run_directory)


def refused(tmp_path: Path, **changes: Any) -> str:
    settings = tiny_search.settings(tmp_path, SPACE, out=tmp_path / "refused", **changes)
    with pytest.raises(UserError) as error:
        prepare(resolve(settings))
    assert not (tmp_path / "refused").exists()
    return str(error.value)


def test_every_table_and_the_report_have_the_dense_scores(tmp_path: Path) -> None:
    run = searched(tmp_path)
    names = list(DENSE_SCORES)
    assert run.ranking[names].notna().all(axis=None)
    assert run.rungs[[*names, *BASE_DENSE]].notna().all(axis=None)
    assert run.scores[names].notna().all(axis=None)
    last = run.rungs[run.rungs["rung"] == 2].set_index("candidate")
    ranking = run.ranking.set_index("candidate")
    complete = ranking.index[ranking["state"] == "complete"]
    assert ranking.loc[complete, "seg_knn"].tolist() == pytest.approx(
        last.loc[complete, "seg_knn"].tolist()
    )

    dense = headsearch.load(run.path).dense
    assert set(dense["kind"]) == {"position", "pixels", "ceiling", "untrained", "base", "head"}
    of_identity = dense[dense["representation"] == "identity"].set_index("score")
    assert set(of_identity.index) == set(names)
    assert of_identity["over_base"].notna().all()
    assert of_identity.filter(like="without_").notna().all(axis=None)
    ceiling = dense[dense["kind"] == "ceiling"].set_index("score")["value"]
    segmented = dense[dense["score"] == "seg_linear"]
    assert (segmented["value"] <= ceiling["seg_linear"] + 0.05).all()

    write_report(run)
    text = (run.path / "report.md").read_text()
    for words in (
        "## Dense tasks", "Position alone", "Raw pixels", "Untrained base", "Ceiling of the grid",
        "dense data scenes-things", "has 4×4 patches, which is coarse", "Pareto front of accuracy",
        "accuracy_segmentation.png",
        "accuracy_detection.png",
    ):  # fmt: skip
        assert words in text, words
    assert "two standard errors" in text
    html = (run.path / "report.html").read_text()
    assert "<h2>Dense tasks</h2>" in html


def test_without_dense_data_the_columns_are_empty(tmp_path: Path) -> None:
    run = searched(tmp_path, dense_data=None)
    assert run.ranking[list(DENSE_SCORES)].isna().all(axis=None)
    assert run.dense.empty
    assert not (run.path / "dense.csv").exists()
    write_report(run)
    assert "Dense tasks" not in (run.path / "report.md").read_text()


def test_tables_of_earlier_runs_lack_the_columns_and_are_read(tmp_path: Path) -> None:
    run = searched(tmp_path, dense_data=None)
    for name, columns in (
        ("ranking.csv", DENSE_SCORES), ("scores.csv", DENSE_SCORES),
        ("rungs.csv", (*DENSE_SCORES, *BASE_DENSE)),
    ):  # fmt: skip
        table = pd.read_csv(run.path / name).drop(columns=list(columns))
        table.to_csv(run.path / name, index=False)
    old = read_run(run.path)
    assert old.ranking[list(DENSE_SCORES)].isna().all(axis=None)
    assert old.rungs[list(BASE_DENSE)].isna().all(axis=None)


def test_dense_scores_change_nothing_else(tmp_path: Path) -> None:
    """Training, discrepancy and accuracy are bitwise those of a search without dense data."""
    with_dense, without = searched(tmp_path, "a"), searched(tmp_path, "b", dense_data=None)
    for table in ("rungs", "scores", "ranking"):
        left, right = getattr(with_dense, table), getattr(without, table)
        kept = [
            name
            for name in left
            if name not in (*DENSE_SCORES, *BASE_DENSE) and not name.endswith("_ms")
        ]
        pd.testing.assert_frame_equal(left[kept], right[kept], check_exact=True)


def test_ranking_goes_by_the_images_that_choose(tmp_path: Path) -> None:
    run = searched(tmp_path, rank_by="segmentation", pruner="none")
    last = run.scores[run.scores["rung"] == 2]
    columns = list(DENSE_RANKINGS["segmentation"])
    assert last["score"].tolist() == pytest.approx(last[columns].mean(axis=1).tolist(), rel=1e-4)
    reported = run.ranking.set_index("candidate")[columns].mean(axis=1)
    assert reported.to_dict() != pytest.approx(last.set_index("candidate")["score"].to_dict())


def test_a_search_that_was_stopped_goes_on_with_the_same_dense_scores(tmp_path: Path) -> None:
    whole = searched(tmp_path, "whole")
    search = begun(tmp_path, "stopped")

    def stop(event: object) -> None:
        search.stop.set()

    search.run(stop)
    assert not search.complete
    again = Search(prepare(resolve({**settings_of(search), "out": None})), search.run_directory)
    again.run()
    pd.testing.assert_frame_equal(
        read_run(search.run_directory).dense, whole.dense, check_exact=False, rtol=1e-4
    )


def settings_of(search: Search) -> dict[str, Any]:
    kept = search.config.model_dump()
    return {name: value for name, value in kept.items() if value is not None}


def test_resuming_with_other_dense_data_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = begun(tmp_path)
    search.run(lambda event: search.stop.set())
    monkeypatch.setattr(built_in, "TRAIN_IMAGES", 25)
    with pytest.raises(UserError, match="the dense data are not those that it began with"):
        Search(prepare(resolve({**settings_of(search), "out": None})), search.run_directory)


def test_several_seeds_are_averaged(tmp_path: Path) -> None:
    run = searched(tmp_path, seeds=2, pruner="none")
    by_seed = run.scores[run.scores["rung"] == 2].groupby("candidate")["seg_knn"]
    assert (by_seed.nunique() == 2).any()
    assert run.ranking["seg_knn"].notna().all()


def test_what_rank_by_needs(tmp_path: Path) -> None:
    text = refused(tmp_path, rank_by="detection")
    assert "--rank-by detection needs --dense-data with boxes" in text
    masks = dense_files.folders(tmp_path / "set")
    text = refused(tmp_path, rank_by="detection", dense_data=str(masks))
    assert "--rank-by detection needs --dense-data with boxes" in text
    assert "gives segmentation" in text
    assert "no such folder" in refused(tmp_path, dense_data=str(tmp_path / "nowhere"))


def test_own_data_are_scored_and_their_place_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense_files.folders(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    run = searched(tmp_path, dense_data="set")
    assert run.config["dense_data"] == str(tmp_path / "set")
    assert run.ranking["seg_knn"].notna().all()
    assert run.ranking["det_ap50"].isna().all()


def test_two_representations_are_compared_on_the_same_images(tmp_path: Path) -> None:
    run = searched(tmp_path)
    head = of_head(run, "seg_linear", "identity")
    assert head is not None
    same = difference(head, head)
    assert (same.value, same.error, same.beyond_error) == (0.0, 0.0, False)
    base = next(row for row in dense_scores(run, "seg_linear") if row.kind == "base")
    paired = difference(head, base)
    assert head.over_base == pytest.approx(paired.value, abs=1e-5)
    assert head.over_base_error == pytest.approx(paired.error, abs=1e-5)


def test_a_base_below_its_baselines_decides_nothing(tmp_path: Path) -> None:
    run = searched(tmp_path)
    table = pd.read_csv(run.path / "dense.csv")
    of_base = table["kind"] == "base"
    columns = ["value", *(f"without_{number}" for number in range(10))]
    raised = table.copy()
    raised.loc[of_base, columns] = 0.99
    raised.to_csv(run.path / "dense.csv", index=False)
    high = read_run(run.path)
    assert not_above(high, "seg_knn") is None
    write_report(high)
    assert (
        "stands two standard errors above all its baselines" in (run.path / "report.md").read_text()
    )
    raised.loc[of_base, columns] = 0.0
    raised.to_csv(run.path / "dense.csv", index=False)
    low = read_run(run.path)
    assert not_above(low, "seg_knn") == "position"
    write_report(low)
    assert "dense scores decide nothing here" in (run.path / "report.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="error"), "it has no column 'error'"),
        (lambda t: t.assign(value="much"), "holds something other than numbers"),
        (lambda t: t.assign(kind="god"), "column 'kind' holds 'god'"),
        (lambda t: t.assign(score="god"), "column 'score' holds 'god'"),
    ],
)
def test_a_broken_dense_table_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    rows = [
        {"representation": "a", "kind": "head", "cohort": 0, "rung": 1, "score": "seg_knn",
         "value": 0.1, "error": 0.1, "over_base": 0.0, "over_base_error": 0.0,
         **{f"without_{number}": 0.1 for number in range(10)}}
    ]  # fmt: skip
    change(pd.DataFrame(rows)).to_csv(tmp_path / "dense.csv", index=False)
    with pytest.raises(UserError, match=message):
        read_dense(tmp_path)


def test_the_pareto_front_by_brute_force() -> None:
    points = list(itertools.product(range(3), repeat=2))
    front = [p for p, kept in zip(points, pareto_front(points), strict=True) if kept]
    assert front == [(2, 2)]
    assert pareto_front([(1, 2), (2, 1), (1, 1)]) == [True, True, False]
    assert pareto_front([(1, 1), (1, 1)]) == [True, True]


def test_solo_runs_record_the_dense_scores_of_the_base(tmp_path: Path) -> None:
    settings = tiny_search.settings(tmp_path, SPACE, epochs=2, dense_data="scenes-things")
    for name in ("space", "cohort", "min_keep", "coupling"):
        settings.pop(name)
    found = headsearch.pretrain(head="convnext", out=tmp_path / "solo", **settings)
    assert found.scores[list(BASE_DENSE)].notna().all(axis=None)
