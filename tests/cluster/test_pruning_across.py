"""`--prune-among all`: cohorts are decided rung by rung as if they were one cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest

from headsearch.cluster.driver import DriverEvent
from headsearch.cluster.engine import Message
from headsearch.cluster.search import ATTEMPTS
from headsearch.config.settings import resolve
from headsearch.errors import UserError
from headsearch.runs.run import is_complete, read_run
from headsearch.study.search import Search
from headsearch.study.setup import prepare
from helpers.inline_engine import InlineEngine, on_engine, same, searched, settings, trials_of
from helpers.tiny_search import SAMPLED, SPACE

optuna.logging.set_verbosity(optuna.logging.WARNING)

SEVEN: dict[str, Any] = {
    "space": SPACE, "cohort": 4, "rungs": 3, "coupling": "observe", "prune_among": "all",
    "eval_images": 64,
}  # fmt: skip
"""Seven heads in cohorts of four and three, whose rungs keep 3, 2 and 1 besides the control."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The seven heads as one cohort in one process, with pruning within a cohort."""
    changes = {**SEVEN, "cohort": 7, "prune_among": "cohort"}
    return searched(tmp_path_factory.mktemp("whole"), **changes)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on an engine, in two cohorts."""
    search = on_engine(tmp_path_factory.mktemp("split"), "run", InlineEngine(), **SEVEN)
    search.run()
    assert search.complete
    return search.run_directory


def rows_of(run: Path, name: str, *without: str) -> pd.DataFrame:
    """A table as text, whatever the order of its rows and without the columns of cohorts."""
    table = pd.read_csv(run / name, dtype=str).drop(columns=list(without))
    keys = [key for key in ("candidate", "seed", "rung") if key in table]
    return table.sort_values(keys).reset_index(drop=True)


def test_cohorts_of_four_and_three_are_one_cohort_of_seven(whole: Path, split: Path) -> None:
    assert len({row["attrs"]["cohort"] for row in trials_of(split)}) == 2
    for name, without in (
        ("ranking.csv", ["cohort", "step_ms"]),
        ("rungs.csv", ["cohort"]),
        ("scores.csv", []),
    ):
        pd.testing.assert_frame_equal(
            rows_of(split, name, *without), rows_of(whole, name, *without)
        )
    ranking = read_run(split).ranking
    assert sorted(ranking["state"]) == ["complete"] * 3 + ["pruned"] * 4
    assert "not among the best 3 of 6 at rung 1" in set(ranking["reason"])
    # Within cohorts, two of each and the control would have stayed.
    assert (ranking["rungs"] > 1).sum() == 3 + 1
    for mine, its in zip(trials_of(split), trials_of(whole), strict=True):
        apart = {"cohort", "generation"}
        its["attrs"] = {k: v for k, v in its["attrs"].items() if k not in apart}
        mine["attrs"] = {k: v for k, v in mine["attrs"].items() if k not in apart}
        assert mine == its


def test_neither_order_nor_a_lost_worker_nor_a_driver_that_ends_changes_it(
    split: Path, tmp_path: Path
) -> None:
    engine = InlineEngine(last_first=True)
    lost: list[Message] = []

    def heard(message: Message) -> None:
        if message["kind"] == "rung" and message["rung"] == 1 and not lost:
            lost.append(message)
            engine.lose()  # and its task is the third
        elif message["kind"] == "step" and len(engine.orders) == 5:
            search.stop.set()

    engine.heard = heard
    search = on_engine(tmp_path, "run", engine, **SEVEN)
    search.run()
    assert lost
    assert not search.complete
    assert (search.run_directory / ATTEMPTS).exists()
    resumed = on_engine(tmp_path, "run", InlineEngine(), **SEVEN)
    resumed.run()
    assert is_complete(resumed.run_directory)
    assert not (resumed.run_directory / ATTEMPTS).exists()
    same(resumed.run_directory, split)


def test_a_generation_of_cohorts_is_compared_with_itself(tmp_path: Path) -> None:
    sampled = {**SEVEN, "space": SAMPLED, "trials": 8, "cohort": 2, "rungs": 2, "epochs": 1}
    search = on_engine(tmp_path, "run", InlineEngine(), generation=2, **sampled)
    search.run()
    trials = [each for each in trials_of(search.run_directory) if "cohort" in each["attrs"]]
    assert [each["attrs"]["generation"] for each in trials] == [0] * 4 + [1] * 4
    reasons = set(read_run(search.run_directory).ranking["reason"].dropna())
    assert reasons == {"not among the best 2 of 3 at rung 1", "not among the best 2 of 4 at rung 1"}


def test_a_cohort_that_is_set_aside_is_compared_when_it_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headsearch.cluster import jobs

    train = jobs.cohort_search

    def broken(prepared: Any, candidates: Any, *others: Any, **options: Any) -> Any:
        if len(candidates) == 3 and options["decided"]:
            raise RuntimeError("a broken kernel")
        return train(prepared, candidates, *others, **options)

    monkeypatch.setattr(jobs, "cohort_search", broken)
    search = on_engine(tmp_path, "run", InlineEngine(), **SEVEN)
    search.run()
    assert search.set_aside == ("cohort 2 up to rung 2 failed: RuntimeError: a broken kernel",)
    ranking = read_run(search.run_directory).ranking
    failed = ranking[ranking["state"] == "failed"]
    assert set(failed["reason"]) == {"its cohort failed: RuntimeError: a broken kernel"}
    monkeypatch.setattr(jobs, "cohort_search", train)
    again = on_engine(tmp_path, "run", InlineEngine(), **SEVEN)
    again.run()
    assert again.complete
    assert set(read_run(again.run_directory).ranking["state"]) == {"complete", "pruned"}


def test_a_cohort_that_does_not_fit_into_memory_is_set_aside_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from headsearch.study.cohort import Cohort

    set_up = Cohort.set_up

    def small(self: Cohort, setup: Any, entries: Any, lr: float) -> None:
        if len(entries) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        set_up(self, setup, entries, lr)

    monkeypatch.setattr(Cohort, "set_up", small)
    search = on_engine(tmp_path, "run", InlineEngine(), **{**SEVEN, "epochs": 1, "rungs": 1})
    search.run()
    [line] = search.set_aside
    assert "with --prune-among all it is not split: search again with a lower --cohort" in line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"coupling": "joint"}, "whose bases differ with --coupling joint: use observe"),
        ({"pruner": "median"}, "which only --pruner rung does, and not median"),
        ({"images_per_head": "share"}, "with --images-per-head share: give a number"),
        ({}, "give --engine local, or --cohort 7 for a single cohort"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_written(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    given = settings(tmp_path, out=tmp_path / "run", **{**SEVEN, **changes})
    with pytest.raises(UserError, match=words):
        Search(prepare(resolve(given)))
    assert not (tmp_path / "run").exists()


def test_progress_says_up_to_which_rung_a_cohort_trains(tmp_path: Path) -> None:
    names: list[str] = []

    def note(event: DriverEvent) -> None:
        if (ended := getattr(event, "ended", None)) is not None:
            names.append(ended.name)

    on_engine(
        tmp_path, "run", InlineEngine(), **{**SEVEN, "rungs": 2, "epochs": 1}
    ).run(note)  # fmt: skip
    assert names == [f"cohort {n} up to rung {rung}" for rung in (1, 2) for n in (1, 2)]
