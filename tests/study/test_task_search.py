"""Further tasks in a search: tables, report, ranking, resuming, verification, refusals."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import headsearch
from headsearch.config.setting_groups import OF_SEARCH_ALONE
from headsearch.config.settings import resolve
from headsearch.errors import UserError
from headsearch.report.content import content
from headsearch.report.document import write_report
from headsearch.report.statistics.other_data import gains_on_other_data, mean_difference
from headsearch.report.tasks import task_section
from headsearch.runs.run import Run, read_run
from headsearch.study.resuming import resumed_search
from headsearch.study.search import Search
from headsearch.study.setup import prepare
from helpers import tiny_search
from helpers.image_files import class_files, write

SPACE = """
families: {attention: {depth: 1}, mixer: {depth: 1}}
controls: {identity: }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two classes of their own."""
    return write(tmp_path_factory.mktemp("task") / "images", class_files({"a": 60, "b": 60}))


def begun(folder: Path, tmp_path: Path, name: str = "run", **changes: Any) -> Search:
    settings = {
        "coupling": "observe", "epochs": 2, "rungs": 2, "images": 32, "pruner": "none",
        "tasks": f"one={folder};two=scenes", **changes,
    }  # fmt: skip
    return Search(tiny_search.begun(tmp_path, name, SPACE, **settings))


@pytest.fixture(scope="module")
def shared(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A search that several tests read, ranked by its tasks."""
    search = begun(folder, tmp_path_factory.mktemp("search"), rank_by="tasks")
    search.run()
    return read_run(search.run_directory)


def test_tables_have_a_row_for_each_task_and_the_mean_as_a_column(shared: Run) -> None:
    tasks = headsearch.load(shared.path).tasks
    assert set(tasks["kind"]) == {"raw", "untrained", "base", "head"}
    of_identity = tasks[tasks["representation"] == "identity"].set_index(["score", "task"])
    values = of_identity["value"]
    assert set(of_identity.index) == {
        ("task_mean", ""), ("task_knn", "one"), ("task_linear", "one"), ("task_knn", "two"),
        ("task_linear", "two"),
    }  # fmt: skip
    mean = values.drop(("task_mean", "")).mean()
    assert values["task_mean", ""] == pytest.approx(mean, rel=1e-4)
    ranking = shared.ranking.set_index("candidate")
    assert ranking.loc["identity", "task_mean"] == pytest.approx(values["task_mean", ""])
    # `identity` has the base's own features; k-NN does not see their scale.
    assert of_identity.loc[("task_knn", "one"), "over_base"] == pytest.approx(0, abs=0.05)
    assert shared.rungs[["task_mean", "base_task_mean"]].notna().all(axis=None)


def test_the_ranking_goes_by_the_samples_that_choose(shared: Run) -> None:
    last = shared.scores[shared.scores["rung"] == 2].set_index("candidate")
    assert last["score"].to_dict() == pytest.approx(last["task_mean"].to_dict(), rel=1e-4)
    reported = shared.ranking.set_index("candidate")["task_mean"]
    assert reported.to_dict() != pytest.approx(last["score"].to_dict())
    assert "mean over the further tasks" in content(shared).legend


def test_the_report_shows_tasks_beside_their_baselines(shared: Run, tmp_path: Path) -> None:
    write_report(shared, tmp_path)
    text = (tmp_path / "report.md").read_text()
    for words in (
        "## Further tasks", "one k-NN (%)", "two linear (%)", "| Raw pixels |", "Untrained base",
        "First in the mean over the tasks", "accuracy_tasks.png",
    ):  # fmt: skip
        assert words in text, words
    assert "<h2>Further tasks</h2>" in (tmp_path / "report.html").read_text()
    first, second = shared.ranking["candidate"].tolist()[:2]
    lead = mean_difference(shared, ("task_mean",), first, second)
    assert lead is not None
    assert lead.error >= 0


def test_tasks_change_nothing_else(shared: Run, folder: Path, tmp_path: Path) -> None:
    """Training, discrepancy and accuracy are bitwise those of a search without tasks."""
    search = begun(folder, tmp_path, tasks=None, rank_by="accuracy")
    search.run()
    bare = read_run(search.run_directory)
    assert bare.tasks.empty
    assert task_section(bare) is None
    for table in ("rungs", "scores"):
        left, right = (
            getattr(run, table).sort_values(["candidate", "rung"]).reset_index(drop=True)
            for run in (shared, bare)
        )
        kept = [name for name in left if name not in ("score", "task_mean", "base_task_mean")]
        pd.testing.assert_frame_equal(left[kept], right[kept], check_exact=True)


def stopped(search: Search) -> Run:
    """A search that was stopped at its first event."""

    def stop(event: object) -> None:
        search.stop.set()

    search.run(stop)
    assert not search.complete
    return read_run(search.run_directory)


def test_a_search_that_was_stopped_goes_on_with_the_same_tasks(
    shared: Run, folder: Path, tmp_path: Path
) -> None:
    run = stopped(begun(folder, tmp_path, rank_by="tasks"))
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    again = resumed_search(run, flags={"tasks": f"one={moved};two=scenes"})
    again.run()
    pd.testing.assert_frame_equal(read_run(run.path).tasks, shared.tasks)


def test_other_tasks_are_refused_when_a_search_goes_on(folder: Path, tmp_path: Path) -> None:
    run = stopped(begun(folder, tmp_path))
    with pytest.raises(UserError, match="the tasks have changed since the run began"):
        resumed_search(run, flags={"tasks": f"one={folder}"})


def test_a_verified_head_has_its_gain_in_the_tasks(shared: Run, tmp_path: Path) -> None:
    run = read_run(Path(shutil.copytree(shared.path, tmp_path / "copy")))
    result = headsearch.verify(run.path, top=1, seeds=2, progress=False)
    gains = gains_on_other_data(result.run)["tasks"]
    head = next(iter(gains))
    solo = result.run.solo.groupby("candidate")["base_task_mean"].mean()
    assert gains[head].value == pytest.approx(solo[head] - solo["none"])
    write_report(result.run)
    assert "Mean over further tasks (points)" in (run.path / "report.md").read_text()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tasks": "nothing"}, "is no task"),
        ({"tasks": "x=nowhere"}, "nowhere"),
        ({"tasks": None, "rank_by": "tasks"}, "needs further tasks: --tasks NAME=DATA"),
        ({"tasks": None, "rank_by": "accuracy:1,tasks:1"}, "needs further tasks"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line_and_nothing_is_written(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    settings = tiny_search.settings(tmp_path, SPACE, out=tmp_path / "refused", **changes)
    with pytest.raises(UserError, match=said) as error:
        prepare(resolve(settings))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "refused").exists()


def test_pretraining_writes_the_scores_of_its_base_in_each_task(
    folder: Path, tmp_path: Path
) -> None:
    settings = tiny_search.settings(tmp_path, SPACE, images=32, tasks=f"one={folder}")
    kept = {
        name: value for name, value in settings.items() if name not in (*OF_SEARCH_ALONE, "out")
    }
    found = headsearch.pretrain(head="mixer-d1", out=tmp_path / "solo", progress=False, **kept)
    tasks = pd.read_csv(tmp_path / "solo" / "tasks.csv", keep_default_na=False)
    assert set(tasks["kind"]) == {"untrained", "base", "head"}
    means = tasks[tasks["score"] == "task_mean"].set_index("representation")["value"]
    table = found.scores["base_task_mean"]
    assert means["untrained"] == pytest.approx(table.iloc[0], rel=1e-4)
    assert means["base"] == pytest.approx(table.iloc[-1], rel=1e-4)
