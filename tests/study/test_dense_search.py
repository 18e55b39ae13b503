"""Dense scores of a search: tables, baselines, report, resuming, and what is refused."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import headsearch
from headsearch.config.settings import resolve
from headsearch.data.dense import built_in
from headsearch.errors import UserError
from headsearch.evaluation.proxies.grouped_scores import GroupedScores
from headsearch.evaluation.scores import Scores
from headsearch.report.content import content
from headsearch.report.dense import dense_section, pareto_front
from headsearch.report.document import write_report
from headsearch.report.statistics.other_data import (
    difference,
    mean_difference,
    not_above,
    of_head,
    score_rows,
)
from headsearch.report.statistics.ranking import distinct
from headsearch.runs.other_data import (
    BASE_OTHER_DATA,
    DENSE_SCORES,
    OTHER_DATA_RANKINGS,
    OTHER_DATA_SCORES,
)
from headsearch.runs.other_data_tables import DENSE, WITHOUT, read_other_data
from headsearch.runs.rank_by import RANK_BY, check_rank_by, weights_of
from headsearch.runs.run import Run, read_run
from headsearch.runs.tables import ranked
from headsearch.study.display import points_of
from headsearch.study.events import Scored
from headsearch.study.profiling.step_profiler import StepProfiler
from headsearch.study.resuming import resumed_search
from headsearch.study.search import Search
from headsearch.study.setup import prepare
from helpers import dense_files, tiny_search

SPACE = """
families: {attention: {depth: 1}, mixer: {depth: 1}}
controls: {identity: }
"""
SETTINGS = {
    "coupling": "observe", "dense_data": "scenes-things", "epochs": 2, "rungs": 2, "images": 32,
    "rank_by": "segmentation", "pruner": "none",
}  # fmt: skip


def begun(tmp_path: Path, name: str = "run", **changes: Any) -> Search:
    return Search(tiny_search.begun(tmp_path, name, SPACE, **{**SETTINGS, **changes}))


def searched(tmp_path: Path, name: str = "run", **changes: Any) -> Run:
    search = begun(tmp_path, name, **changes)
    search.run()
    return read_run(search.run_directory)


@pytest.fixture(scope="module", autouse=True)
def small_sets() -> Iterator[None]:
    """The built-in dense sets with as few images as are allowed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(built_in, "TRAIN_IMAGES", 20)
        patch.setattr(built_in, "EVALUATION_IMAGES", 40)
        yield


@pytest.fixture(scope="module")
def shared(small_sets: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A search that several tests read; those that write take a copy."""
    return searched(tmp_path_factory.mktemp("dense"))


@pytest.fixture
def run(shared: Run, tmp_path: Path) -> Run:
    """A copy of the search."""
    return read_run(Path(shutil.copytree(shared.path, tmp_path / "copy")))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same search without dense data, by accuracy."""
    return searched(tmp_path_factory.mktemp("bare"), dense_data=None, rank_by="accuracy")


def refused(tmp_path: Path, **changes: Any) -> str:
    settings = tiny_search.settings(tmp_path, SPACE, out=tmp_path / "refused", **changes)
    with pytest.raises(UserError) as error:
        prepare(resolve(settings))
    assert not (tmp_path / "refused").exists()
    return str(error.value)


def test_every_table_and_the_report_have_the_dense_scores(run: Run) -> None:
    # On a map of 4×4 patches hardly any object is large enough for a mask.
    names = [name for name in DENSE_SCORES if name != "mask_iou"]
    assert run.ranking[names].notna().all(axis=None)
    assert run.rungs[[*names, *(f"base_{name}" for name in names)]].notna().all(axis=None)
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
        "accuracy_segmentation.png", "accuracy_detection.png",
    ):  # fmt: skip
        assert words in text, words
    assert "two standard errors" in text
    html = (run.path / "report.html").read_text()
    assert "<h2>Dense tasks</h2>" in html


def test_without_dense_data_the_columns_are_empty(bare: Run) -> None:
    run = bare
    assert run.ranking[list(DENSE_SCORES)].isna().all(axis=None)
    assert run.dense.empty
    assert not (run.path / "dense.csv").exists()
    assert dense_section(run) is None


def test_tables_of_earlier_runs_lack_the_columns_and_are_read(bare: Run, tmp_path: Path) -> None:
    run = read_run(Path(shutil.copytree(bare.path, tmp_path / "copy")))
    for name, columns in (
        ("ranking.csv", DENSE_SCORES), ("scores.csv", DENSE_SCORES),
        ("rungs.csv", (*DENSE_SCORES, *BASE_OTHER_DATA)),
    ):  # fmt: skip
        table = pd.read_csv(run.path / name).drop(columns=list(columns))
        table.to_csv(run.path / name, index=False)
    old = read_run(run.path)
    assert old.ranking[list(DENSE_SCORES)].isna().all(axis=None)
    assert old.rungs[list(BASE_OTHER_DATA)].isna().all(axis=None)


def test_dense_scores_change_nothing_else(shared: Run, bare: Run) -> None:
    """Training, discrepancy and accuracy are bitwise those of a search without dense data."""
    for table in ("rungs", "scores", "ranking"):
        left, right = (
            getattr(each, table).sort_values(
                ["candidate", "rungs" if table == "ranking" else "rung"]
            )
            for each in (shared, bare)
        )
        others = ("rank", "score", "step_ms", *DENSE_SCORES, *BASE_OTHER_DATA)
        kept = [name for name in left if name not in others]
        pd.testing.assert_frame_equal(
            left[kept].reset_index(drop=True), right[kept].reset_index(drop=True), check_exact=True
        )


def test_ranking_goes_by_the_images_that_choose(shared: Run) -> None:
    last = shared.scores[shared.scores["rung"] == 2]
    columns = list(OTHER_DATA_RANKINGS["segmentation"])
    assert last["score"].tolist() == pytest.approx(last[columns].mean(axis=1).tolist(), rel=1e-4)
    reported = shared.ranking.set_index("candidate")[columns].mean(axis=1)
    assert reported.to_dict() != pytest.approx(last.set_index("candidate")["score"].to_dict())
    assert list(shared.ranking["score"]) == sorted(shared.ranking["score"], reverse=True)
    assert RANK_BY["segmentation"].words in content(shared).legend


@pytest.mark.parametrize("name", sorted(OTHER_DATA_RANKINGS))
def test_every_dense_ranking_is_the_mean_of_its_scores(name: str) -> None:
    values = {column: 0.1 * number for number, column in enumerate(OTHER_DATA_SCORES)}
    scores = Scores(1.0, None, None, other_data=GroupedScores(choose=values))
    columns = OTHER_DATA_RANKINGS[name]
    expected = sum(values[column] for column in columns) / len(columns)
    assert scores.ranking_score(name) == pytest.approx(expected)
    assert math.isnan(Scores(1.0, None, None).ranking_score(name))
    assert name in RANK_BY


def test_a_weighted_mean_ranks_and_tensorboard_gets_the_dense_scores(tmp_path: Path) -> None:
    drawn: dict[str, float] = {}

    def observe(event: object) -> None:
        points = points_of(event, 1) if isinstance(event, Scored) else None
        drawn.update(points.values if points is not None else {})

    search = begun(tmp_path, rank_by="accuracy:1, segmentation:3")
    search.run(observe)
    run = read_run(search.run_directory)
    last = run.scores[run.scores["rung"] == 2]
    accuracy, segmentation = (
        last[list(columns)].mean(axis=1)
        for columns in (("choose_knn", "choose_linear"), OTHER_DATA_RANKINGS["segmentation"])
    )
    expected = (accuracy + 3 * segmentation) / 4
    assert last["score"].tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    assert run.config["rank_by"] == "accuracy:1, segmentation:3"
    words = "Ranked by Score: the weighted mean of accuracy (25%) and segmentation (75%)"
    assert words in content(run).legend
    ranking = run.ranking.set_index("candidate")
    for score in ("seg_knn", "det_ap50"):
        for head in ranking.index[ranking["state"] == "complete"]:
            assert drawn[f"{score}/{head}"] == pytest.approx(ranking.loc[head, score], rel=1e-4)
        assert math.isfinite(drawn[f"{score}/(base)"])


@pytest.mark.parametrize(("detection", "told"), [(0.3, True), (0.2, True), (0.1, False)])
def test_a_mean_tells_heads_apart_where_none_of_its_scores_disagrees(
    run: Run, detection: float, told: bool
) -> None:
    dense = run.dense.copy()
    for head, segmented, detected in (("identity", 0.5, detection), ("mixer-d1", 0.1, 0.2)):
        for scores, value in (
            (OTHER_DATA_RANKINGS["segmentation"], segmented),
            (OTHER_DATA_RANKINGS["detection"], detected),
        ):  # fmt: skip
            rows = (dense["representation"] == head) & dense["score"].isin(scores)
            dense.loc[rows & (dense["class"] == ""), ["value", *WITHOUT]] = value
    config = {**run.config, "rank_by": "segmentation:1,detection:2"}
    changed = replace(run, config=config, dense=dense)
    rows = {row.candidate: row for row in ranked(run.ranking)}
    assert distinct(rows["identity"], rows["mixer-d1"], changed) == told
    assert not distinct(rows["mixer-d1"], rows["identity"], changed)


def test_weights_add_up_to_one_and_are_one_unless_given() -> None:
    assert weights_of("accuracy,segmentation:3") == {"accuracy": 0.25, "segmentation": 0.75}
    assert weights_of("detection") == {"detection": 1.0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("accuracy:1,segmentatio:2", "did you mean 'segmentation'"),
        ("accuracy:1,auto:1", r"unknown score in --rank-by 'auto' .*choices: .*segmentation"),
        ("accuracy:1,,masks:1", "unknown score in --rank-by ''"),
        ("accuracy:1,accuracy:2", "accuracy is named twice"),
        ("accuracy:2", "a weighted mean is of two scores or more: SCORE:WEIGHT"),
        ("accuracy:0,masks:1", "the weight '0' of accuracy is no number above 0"),
        ("accuracy:nan,masks:1", "the weight 'nan' of accuracy"),
        ("accuracy:x,masks:1", r"use SCORE:WEIGHT,SCORE:WEIGHT, as in accuracy:1,segmentation:1"),
    ],
)
def test_a_weighted_mean_that_is_none_is_told(given: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_rank_by(given)


def test_a_weighted_mean_needs_what_its_scores_need(tmp_path: Path) -> None:
    text = refused(tmp_path, rank_by="accuracy:1,detection:1")
    assert "--rank-by accuracy:1,detection:1 needs --dense-data with boxes" in text
    text = refused(tmp_path, rank_by="absorption:1,discrepancy:1", coupling="joint")
    assert "--rank-by absorption needs --coupling observe" in text


def test_dense_data_that_were_moved_are_named(tmp_path: Path) -> None:
    dense_files.folders(tmp_path / "set")
    search = begun(tmp_path, dense_data=str(tmp_path / "set"))
    search.run(lambda event: search.stop.set())
    shutil.move(tmp_path / "set", tmp_path / "elsewhere")
    found = read_run(search.run_directory)
    with pytest.raises(UserError, match="no such folder"):
        resumed_search(found)
    again = resumed_search(found, flags={"dense_data": str(tmp_path / "elsewhere")})
    again.run()
    assert read_run(search.run_directory).ranking["seg_knn"].notna().all()


def test_a_forecast_counts_the_dense_scores(tmp_path: Path) -> None:
    with_data, without = (
        prepare(resolve(tiny_search.settings(tmp_path, SPACE, **{**SETTINGS, **changes})))
        for changes in ({}, {"dense_data": None, "rank_by": "accuracy"})
    )
    profiler = StepProfiler(with_data.training)
    heads = with_data.listing.candidates if with_data.listing else []
    assert profiler.other_scoring(heads[:1]) > 0
    assert StepProfiler(without.training).other_scoring(heads[:1]) == 0


def test_a_search_that_was_stopped_goes_on_with_the_same_dense_scores(
    shared: Run, tmp_path: Path
) -> None:
    search = begun(tmp_path, "stopped")

    def stop(event: object) -> None:
        search.stop.set()

    search.run(stop)
    assert not search.complete
    again = Search(prepare(resolve({**settings_of(search), "out": None})), search.run_directory)
    again.run()
    pd.testing.assert_frame_equal(
        read_run(search.run_directory).dense, shared.dense, check_exact=False, rtol=1e-4
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(built_in, "TRAIN_IMAGES", 21)
        other = prepare(resolve({**settings_of(search), "out": None}))
    with pytest.raises(
        UserError, match=r"the dense data have changed since the run began.* --dense-data PATH"
    ):
        Search(other, search.run_directory)


def settings_of(search: Search) -> dict[str, Any]:
    kept = search.config.model_dump()
    return {name: value for name, value in kept.items() if value is not None}


def test_what_rank_by_needs(tmp_path: Path) -> None:
    text = refused(tmp_path, rank_by="detection")
    assert "--rank-by detection needs --dense-data with boxes" in text
    masks = dense_files.folders(tmp_path / "set")
    text = refused(tmp_path, rank_by="detection", dense_data=str(masks))
    assert "--rank-by detection needs --dense-data with boxes" in text
    assert "gives segmentation" in text
    assert "no such folder" in refused(tmp_path, dense_data=str(tmp_path / "nowhere"))


def test_own_data_under_several_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores are means over seeds, and the place of the data is recorded absolutely."""
    dense_files.folders(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    run = searched(tmp_path, dense_data="set", seeds=2)
    assert run.config["dense_data"] == str(tmp_path / "set")
    assert run.ranking["seg_knn"].notna().all()
    assert run.ranking["det_ap50"].isna().all()
    assert run.scores.groupby(["candidate", "rung"])["seg_knn"].nunique().max() == 2


def test_two_representations_are_compared_on_the_same_images(run: Run) -> None:
    head = of_head(run, "seg_linear", "identity")
    assert head is not None
    same = difference(head, head)
    assert (same.value, same.error, same.beyond_error) == (0.0, 0.0, False)
    base = next(row for row in score_rows(run, "seg_linear") if row.kind == "base")
    paired = difference(head, base)
    assert head.over_base == pytest.approx(paired.value, abs=1e-5)
    assert head.over_base_error == pytest.approx(paired.error, abs=1e-5)


def test_one_head_beats_another_beyond_two_paired_errors(run: Run) -> None:
    columns = OTHER_DATA_RANKINGS["segmentation"]
    table = run.ranking.set_index("candidate")
    found = mean_difference(run, columns, "identity", "mixer-d1")
    assert found is not None
    means = table[list(columns)].mean(axis=1)
    assert found.value == pytest.approx(means["identity"] - means["mixer-d1"], abs=1e-5)
    rows = {row.candidate: row for row in ranked(run.ranking)}
    first, second = rows["identity"], rows["mixer-d1"]
    assert distinct(first, second, run) == found.beyond_error
    assert not distinct(first, first, run)
    assert mean_difference(run, columns, "identity", "nobody") is None


def test_a_base_below_its_baselines_decides_nothing(run: Run) -> None:
    table = pd.read_csv(run.path / "dense.csv")
    of_base = table["kind"] == "base"
    columns = ["value", *(f"without_{number}" for number in range(10))]
    raised = table.copy()
    raised.loc[of_base, columns] = 0.99
    raised.to_csv(run.path / "dense.csv", index=False)
    high = read_run(run.path)
    assert not_above(high, "seg_knn") is None
    assert "stands two standard errors above all its baselines" in lines_of(high)
    raised.loc[of_base, columns] = 0.0
    raised.to_csv(run.path / "dense.csv", index=False)
    low = read_run(run.path)
    assert not_above(low, "seg_knn") == "position"
    assert "dense scores decide nothing here" in lines_of(low)


def lines_of(run: Run) -> str:
    section = dense_section(run)
    assert section is not None
    return "\n".join(section.lines)


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
        read_other_data(tmp_path, DENSE)


def test_the_pareto_front_by_brute_force() -> None:
    points = list(itertools.product(range(3), repeat=2))
    front = [p for p, kept in zip(points, pareto_front(points), strict=True) if kept]
    assert front == [(2, 2)]
    assert pareto_front([(1, 2), (2, 1), (1, 1)]) == [True, True, False]
    assert pareto_front([(1, 1), (1, 1)]) == [True, True]


def test_solo_runs_record_the_dense_scores_of_the_base(tmp_path: Path) -> None:
    masks = dense_files.folders(tmp_path / "set")
    settings = tiny_search.settings(tmp_path, SPACE, epochs=1, rungs=1, dense_data=str(masks))
    for name in ("space", "cohort", "min_keep", "coupling"):
        settings.pop(name)
    found = headsearch.pretrain(head="convnext", out=tmp_path / "solo", **settings)
    assert found.scores[["base_seg_knn", "base_seg_linear"]].notna().all(axis=None)
    assert found.scores["base_det_ap50"].isna().all()
