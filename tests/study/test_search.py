"""A run from settings to tables: cohorts, rungs, pruning, and what is left behind."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import torch
import yaml
from optuna.trial import TrialState

from headsearch.config.settings import resolve
from headsearch.data import Data
from headsearch.errors import UserError
from headsearch.evaluation.proxies import labelled
from headsearch.evaluation.proxies.linear import linear_scores
from headsearch.models.network import BASE
from headsearch.report.content import content
from headsearch.runs.incidents import TOO_LARGE
from headsearch.runs.run import Run, read_run
from headsearch.runs.tables import RANKING_COLUMNS, RUNG_COLUMNS
from headsearch.study.events import Advanced, Event, Noted, Scored
from headsearch.study.proposals import cohort_sizes
from headsearch.study.resuming import resumed_search
from headsearch.study.search import Search
from headsearch.study.setup import prepare
from headsearch.study.state import SearchState
from headsearch.training import opening, setup
from headsearch.training.trainer import Trainer
from helpers.changed_trainers import (
    on_new_trainers,
    with_a_base_that_diverges,
    with_a_brittle_base,
    with_a_broken_head,
    with_an_infinite_base,
    with_memory_for,
)
from helpers.stepwise import stepwise

optuna.logging.set_verbosity(optuna.logging.WARNING)

SPACE = """
families:
  attention: {depth: 1}
  convnext: {depth: 1, kernel: 3, first_shortcut: [true, false]}
  poolformer: {depth: 1}
  mixer: {depth: 1}
  resmlp: {depth: 1}
  bottleneck: {depth: 1}
controls: [identity, {own: {depth: 2}}]
"""


@pytest.fixture(scope="session")
def space_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("space") / "tiny.yaml"
    controls = "controls:\n  identity:\n  own: {depth: 2}\n"
    file.write_text(SPACE.replace("controls: [identity, {own: {depth: 2}}]\n", controls))
    return file


@pytest.fixture(scope="session")
def small_space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("space") / "small.yaml"
    families = ("mixer", "poolformer", "resmlp", "attention")
    lines = "".join(f"  {family}: {{depth: 1}}\n" for family in families)
    file.write_text(f"families:\n{lines}controls:\n  identity:\n")
    return file


def tiny(space_file: Path, out: Path, **changes: Any) -> dict[str, Any]:
    return {
        "base": "test_vit",
        "base_args": "depth=2",
        "space": str(space_file),
        "image_size": 16,
        "patch_size": 4,
        "images": 64,
        "epochs": 3,
        "batch_size": 16,
        "rungs": 3,
        "coupling": "joint",  # the harder of the two: what a head does reaches the base
        "rank_by": "balanced",
        "eval_images": 64,
        "bank_images": 64,
        "min_keep": 2,
        "device": "cpu",
        "precision": "float32",
        "threads": 1,
        "out": out,
        **changes,
    }


def run(settings: dict[str, Any]) -> Run:
    search = Search(prepare(resolve(settings)))
    search.run()
    return read_run(search.run_directory)


@pytest.fixture(scope="session")
def finished(space_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(tiny(space_file, tmp_path_factory.mktemp("runs") / "first"))


def load_study(found: Run) -> optuna.Study:
    return optuna.load_study(
        study_name=found.config["study_name"], storage=f"sqlite:///{found.path / 'study.db'}"
    )


def test_a_run_leaves_the_tables_with_their_columns(finished: Run) -> None:
    assert list(finished.ranking.columns) == list(RANKING_COLUMNS)
    assert list(finished.rungs.columns) == list(RUNG_COLUMNS)
    assert set(finished.ranking["state"]) <= {"complete", "pruned", "collapsed", "failed"}
    assert finished.ranking["candidate"].is_unique
    assert finished.facts["status"] == "complete"
    assert {"identity", "own-d2"} <= set(finished.ranking["candidate"])


def test_the_untrained_network_is_scored_and_pruning_begins_at_rung_one(finished: Run) -> None:
    by_rung = finished.rungs.groupby("rung")["candidate"].nunique()
    assert by_rung[0] == by_rung[1] == len(finished.ranking)
    assert by_rung[2] < by_rung[1]
    assert list(finished.rungs.groupby("rung")["step"].first()) == [0, 4, 8, 12]


def test_controls_reach_the_end_and_the_kept_are_the_best_by_the_reported_score(
    finished: Run,
) -> None:
    states = finished.ranking.set_index("candidate")["state"]
    assert states["identity"] == states["own-d2"] == "complete"
    trials = {t.user_attrs["candidate"]: t for t in load_study(finished).trials}
    candidates = {n: t for n, t in trials.items() if not t.user_attrs["control"]}
    at_one = sorted(candidates, key=lambda n: candidates[n].intermediate_values[1], reverse=True)
    keep = max(2, -(-len(candidates) // 2))
    stayed = {n for n, t in candidates.items() if 2 in t.intermediate_values}
    assert stayed == set(at_one[:keep])


def test_optuna_holds_one_trial_a_candidate_in_the_state_of_the_table(finished: Run) -> None:
    states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
    trials = {t.user_attrs["candidate"]: t for t in load_study(finished).trials}
    assert set(trials) == set(finished.ranking["candidate"])
    for row in finished.ranking.itertuples():
        trial = trials[row.candidate]
        assert trial.state == states[row.state]
        assert trial.last_step == row.rungs
        assert trial.intermediate_values[row.rungs] == pytest.approx(row.score, rel=1e-4)


def test_identity_has_no_discrepancy_and_scores_nothing(finished: Run) -> None:
    row = finished.ranking.set_index("candidate").loc["identity"]
    assert row["discrepancy"] == pytest.approx(0, abs=1e-6)
    assert row["score"] == pytest.approx(0, abs=1e-2)


def test_the_config_holds_all_that_decides_the_run(finished: Run, space_file: Path) -> None:
    config = yaml.safe_load((finished.path / "config.yaml").read_text())
    assert config["seed"] == 0
    assert config["image_size"] == 16
    assert config["rank_by"] == "balanced"
    assert config["space_content"]["families"]["convnext"]
    assert len(config["space_hash"]) == 12
    assert {"torch", "timm", "optuna", "python"} <= set(config["versions"])


def test_by_default_heads_watch_and_the_most_accurate_wins(
    space_file: Path, tmp_path: Path
) -> None:
    settings = tiny(space_file, tmp_path / "run", epochs=1, rungs=1, pruner="none")
    del settings["coupling"], settings["rank_by"]
    found = run(settings)
    assert (found.config["coupling"], found.config["rank_by"]) == ("observe", "accuracy")
    chosen = found.scores[found.scores["rung"] == 1].set_index("candidate")
    accuracy = chosen[["choose_knn", "choose_linear"]].mean(axis=1)
    complete = found.ranking[found.ranking["state"] == "complete"]
    assert len(complete) > 4
    expected = accuracy[complete["candidate"]].sort_values(ascending=False)
    assert list(complete["score"]) == pytest.approx(list(expected), rel=1e-4)


def test_the_same_seed_gives_the_same_tables(
    finished: Run, space_file: Path, tmp_path: Path
) -> None:
    again = run(tiny(space_file, tmp_path / "again"))
    without_times = [c for c in RANKING_COLUMNS if c != "step_ms"]
    first, second = (pd.read_csv(r.path / "ranking.csv")[without_times] for r in (finished, again))
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert (finished.path / "rungs.csv").read_bytes() == (again.path / "rungs.csv").read_bytes()
    other = run(tiny(space_file, tmp_path / "other", seed=1))
    assert (other.path / "rungs.csv").read_bytes() != (again.path / "rungs.csv").read_bytes()


def test_pruned_heads_leave_the_step(
    space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainers: list[Trainer] = []
    on_new_trainers(monkeypatch, lambda trainer, seed: trainers.append(trainer))
    search = Search(prepare(resolve(tiny(space_file, tmp_path / "run", rungs=2))))
    seen = []
    for event in stepwise(search.run):
        if isinstance(event, Scored):
            heads = len(trainers[0].student.heads)
            size = sum(p.numel() for p in trainers[0].student.parameters())
            seen.append((event.rung, heads, size))
    assert [rung for rung, _, _ in seen] == [0, 1, 2]
    assert seen[0][1] > seen[1][1]
    assert seen[0][2] > seen[1][2]


def test_every_cohort_starts_from_the_same_base_and_observing_heads_do_not_feel_theirs(
    space_file: Path, tmp_path: Path
) -> None:
    """The untrained base scores alike in all cohorts; with `observe` so does it at every rung."""
    shared = {"coupling": "observe", "pruner": "none", "epochs": 2, "rungs": 2}
    split = run(tiny(space_file, tmp_path / "split", cohort=3, **shared)).rungs
    whole = run(tiny(space_file, tmp_path / "whole", **shared)).rungs
    assert split["cohort"].nunique() > 1
    assert split.groupby("rung")[["base_knn", "base_linear"]].nunique().max().max() == 1
    order = ["candidate", "rung"]
    columns = ["candidate", "rung", "discrepancy", "head_knn", "head_linear", "loss"]
    pd.testing.assert_frame_equal(
        split.sort_values(order)[columns].reset_index(drop=True),
        whole.sort_values(order)[columns].reset_index(drop=True),
        check_exact=True,
    )


def test_a_large_space_is_sampled_without_trying_a_candidate_twice(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_text(
        "families:\n"
        "  convnext: {depth: {low: 1, high: 2}, kernel: [3, 5, 7], mlp_ratio: {low: 1, high: 2}}\n"
        "  poolformer: {depth: {low: 1, high: 3}}\n"
        "controls:\n  identity:\n"
    )
    found = run(tiny(large, tmp_path / "run", trials=6, cohort=3, epochs=1, rungs=1))
    assert len(found.ranking) == 6
    assert found.ranking["candidate"].is_unique
    assert found.ranking["cohort"].nunique() == 2


def test_stopping_early_keeps_what_was_scored(space_file: Path, tmp_path: Path) -> None:
    search = Search(prepare(resolve(tiny(space_file, tmp_path / "run"))))
    events = stepwise(search.run)
    for event in events:
        if isinstance(event, Advanced):
            break
    events.close()
    found = read_run(search.run_directory)
    assert found.facts["status"] == "interrupted"
    assert set(found.rungs["rung"]) == {0}
    assert set(found.ranking["state"]) == {"running"}


def test_the_labels_of_the_reporting_split_change_no_ranking(
    finished: Run, space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = opening.open_data

    def with_shuffled_report_labels(*args: Any, **settings: Any) -> Data:
        data = opened(*args, **settings)
        assert data.queries.labels is not None
        data.queries.labels[data.report] = data.queries.labels[data.report].flip(0)
        return data

    monkeypatch.setattr(opening, "open_data", with_shuffled_report_labels)
    found = run(tiny(space_file, tmp_path / "run"))
    columns = ["rank", "candidate", "state", "score"]
    pd.testing.assert_frame_equal(finished.ranking[columns], found.ranking[columns])
    assert not found.ranking["head_knn"].equals(finished.ranking["head_knn"])


def test_without_labels_the_ranking_is_by_discrepancy(space_file: Path, tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    pixels = torch.randint(0, 256, (160, 32, 32, 3), dtype=torch.uint8).numpy()
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{index}.png")
    settings = tiny(space_file, tmp_path / "run", data=str(folder))
    settings["rank_by"] = "auto"
    found = run(settings)
    assert found.config["rank_by"] == "discrepancy"
    assert found.ranking["head_knn"].isna().all()
    finalists = found.ranking[found.ranking["state"] == "complete"]
    assert list(finalists["score"]) == sorted(finalists["discrepancy"], reverse=True)
    with pytest.raises(UserError, match="--rank-by accuracy needs labels"):
        prepare(resolve({**settings, "rank_by": "accuracy", "out": tmp_path / "other"}))


def test_a_head_that_diverges_is_set_aside_and_the_others_go_on(
    space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_new_trainers(monkeypatch, with_a_broken_head("mixer-d1"))
    search = Search(prepare(resolve(tiny(space_file, tmp_path / "run", pruner="none"))))
    search.run()
    states = read_run(search.run_directory).ranking.set_index("candidate")
    assert states.loc["mixer-d1", "state"] == "failed"
    assert "not finite" in states.loc["mixer-d1", "reason"]
    assert set(states.drop("mixer-d1")["state"]) == {"complete"}
    assert states.drop("mixer-d1")["discrepancy"].notna().all()


def test_a_base_that_is_unsound_from_the_first_step_ends_the_run_at_once(
    small_space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No learning rate mends it, and no head is to blame."""
    steps = 0

    def change(trainer: Trainer, seed: int) -> None:
        with_an_infinite_base(trainer, seed)
        step = trainer.step

        def counted(*arguments: Any) -> None:
            nonlocal steps
            steps += 1
            step(*arguments)

        trainer.step = counted  # type: ignore[method-assign]

    on_new_trainers(monkeypatch, change)
    for objective in ("simclr", "ibot"):  # with a teacher, whose weights are sound, and without
        settings = tiny(small_space, tmp_path / objective, objective=objective)
        search = Search(prepare(resolve(settings)))
        given_up = r"diverged in its first step.* a lower --lr does not help"
        with pytest.raises(UserError, match=given_up):
            list(stepwise(search.run))
        found = read_run(search.run_directory)
        assert found.facts["status"] == "failed"
        assert found.facts["lowered"] == []
        assert set(found.ranking["state"]) == {"failed"}
        assert set(found.ranking["reason"]) == {"the base diverged"}
        assert {trial.state for trial in load_study(found).trials} == {TrialState.FAIL}
    assert steps <= 4


FEW = {"epochs": 3, "rungs": 3}
"""Twelve steps, four to a rung."""


def same_tables(first: Run, second: Run) -> None:
    """Byte for byte, but for how long a head's step took."""
    for name in ("rungs.csv", "scores.csv"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes(), name
    tables = [pd.read_csv(found.path / "ranking.csv", dtype=str) for found in (first, second)]
    pd.testing.assert_frame_equal(*(table.drop(columns="step_ms") for table in tables))


def test_a_base_that_only_a_high_learning_rate_makes_diverge_gets_through(
    small_space: Path, tmp_path: Path
) -> None:
    """Where it does before the first rung, as a search that began with the lower rate."""
    shared = {**FEW, "rungs": 2, "cohort": 3, "seeds": 2, "data_seed": 0}
    with pytest.MonkeyPatch.context() as patched:
        on_new_trainers(patched, with_a_brittle_base(0.025))
        found = run(tiny(small_space, tmp_path / "high", lr=8e-3, **shared))
    assert found.facts["status"] == "complete"
    [lowering] = found.facts["lowered"]
    assert (lowering["cohort"], lowering["back_to"], lowering["lr"]) == (0, 0, 4e-3)
    assert 0 < lowering["step"] < 6
    low = run(tiny(small_space, tmp_path / "low", lr=4e-3, **shared))
    assert found.ranking["cohort"].nunique() == 2  # the second one at the lower rate as well
    same_tables(found, low)
    for of in ("cost_base_equivalents", "solo_equivalents"):
        assert found.facts[of] == pytest.approx(low.facts[of])


def test_weights_that_explode_are_left_for_those_before(small_space: Path, tmp_path: Path) -> None:
    """AdamW multiplies weights by 1 − lr · decay: −4 at first, −1.5 at half the rate.

    A base of two blocks would still have finite features after twelve steps.
    """
    changes = {**FEW, "base_args": None, "lr": 50, "weight_decay": 0.1, "cohort": 16}
    found = run(tiny(small_space, tmp_path / "run", **changes))
    assert found.facts["status"] == "complete"
    rates = [lowering["lr"] for lowering in found.facts["lowered"]]
    assert rates == [25.0, 12.5, 6.25][: len(rates)] != []


def test_after_a_rung_the_base_goes_back_to_that_rung_under_all_seeds(
    small_space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a search would that was stopped there and gone on with at half the rate."""
    shared = {**FEW, "cohort": 16, "lr": 1e-3, "seeds": 2, "data_seed": 0}
    search = Search(prepare(resolve(tiny(small_space, tmp_path / "whole", **shared))))
    events = stepwise(search.run)
    for event in events:
        if isinstance(event, Scored) and event.rung == 2:
            events.close()
    with monkeypatch.context() as patched:
        patched.setattr(SearchState, "lr", 5e-4)
        resumed_search(read_run(search.run_directory)).run()
    # a head that goes first takes part again: a control, which is not pruned before
    change = with_a_base_that_diverges(10, 7e-4, under=1, after="identity")
    on_new_trainers(monkeypatch, change)
    found = run(tiny(small_space, tmp_path / "back", **shared))
    assert found.facts["lowered"] == [
        {"cohort": 0, "rung": 3, "seed": 1, "step": 10, "back_to": 8, "lr": 5e-4}
    ]
    assert "failed" not in set(found.ranking["state"])
    same_tables(read_run(search.run_directory), found)


def test_where_the_last_rung_was_not_far_enough_it_goes_back_to_the_first_weights(
    small_space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = {**FEW, "cohort": 16, "pruner": "none"}
    low = run(tiny(small_space, tmp_path / "low", lr=2.5e-4, **shared))
    on_new_trainers(monkeypatch, with_a_base_that_diverges(10, 4e-4))
    found = run(tiny(small_space, tmp_path / "high", lr=1e-3, **shared))
    assert [(one["back_to"], one["lr"]) for one in found.facts["lowered"]] == [
        (8, 5e-4),
        (0, 2.5e-4),
    ]
    same_tables(low, found)


def test_heads_that_had_been_pruned_stay_so_when_the_others_begin_anew(
    space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_new_trainers(monkeypatch, with_a_base_that_diverges(10, 4e-4))
    found = run(tiny(space_file, tmp_path / "run", lr=1e-3, cohort=16, **FEW))
    states = found.ranking.groupby("cohort")["state"].unique()
    assert {cohort: set(of) for cohort, of in states.items()} == {0: {"pruned"}, 1: {"complete"}}
    rows = found.rungs.groupby("candidate")["rung"].apply(list)
    for row in found.ranking.itertuples():
        assert rows[row.candidate] == list(range(row.rungs + 1))
    trials = {t.user_attrs["candidate"]: t for t in load_study(found).trials}
    for row in found.ranking.itertuples():
        assert trials[row.candidate].user_attrs["cohort"] == row.cohort
        assert trials[row.candidate].state.name.lower() == row.state


def test_a_base_that_diverges_whatever_the_rate_ends_the_run_with_advice(
    small_space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_new_trainers(monkeypatch, with_a_base_that_diverges(6, 0))
    settings = tiny(small_space, tmp_path / "run", lr=8e-3, pruner="none", **FEW)
    search = Search(prepare(resolve(settings)))
    seen: list[Event] = []
    with pytest.raises(UserError, match=r"lowered 3 times already; try a lower --lr than 0.001"):
        seen.extend(stepwise(search.run))
    said = [event.text for event in seen if isinstance(event, Noted)]
    assert said[0] == (
        "the base diverged at step 6 of cohort 1 (seed 0): back to step 4, with the learning rate "
        "lowered to 0.004 from there on"
    )
    assert [text.rsplit("back to ")[1] for text in said[1:]] == [
        "step 0, with the learning rate lowered to 0.002 from there on",
        "step 0, with the learning rate lowered to 0.001 from there on",
    ]
    found = read_run(search.run_directory)
    assert found.facts["status"] == "failed"
    assert set(found.ranking["state"]) == {"failed"}
    assert {trial.state for trial in load_study(found).trials} == {TrialState.FAIL}


PARTS: dict[str, Any] = {**FEW, "rungs": 2, "seeds": 2, "data_seed": 0}


@pytest.fixture(scope="module")
def in_cohorts_of_three(small_space: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(tiny(small_space, tmp_path_factory.mktemp("parts") / "run", cohort=3, **PARTS))


def attaches_three(trainer: Trainer, seed: int) -> None:
    attach = trainer.attach

    def one(*arguments: Any) -> None:
        if seed == 1 and len(trainer.student.heads) == 3:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
                "memory: you tried to allocate 281474976710656 bytes."
            )
        attach(*arguments)

    trainer.attach = one  # type: ignore[method-assign]


def scores_three(patch: pytest.MonkeyPatch) -> None:
    scores = setup.TrainingSetup.scores

    def one(self: setup.TrainingSetup, network: Any, *more: Any) -> Any:
        if len(network.heads) > 3:
            raise MemoryError("Unable to allocate 3.2 GiB for an array")
        return scores(self, network, *more)

    patch.setattr(setup.TrainingSetup, "scores", one)


@pytest.mark.parametrize("where", ["step", "attach", "scoring"])
def test_a_cohort_that_does_not_fit_into_memory_trains_as_two_would(
    where: str,
    in_cohorts_of_three: Run,
    small_space: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The five heads of a cohort as those of a search in cohorts of three and two."""
    made: list[weakref.ref[Trainer]] = []

    def change(trainer: Trainer, seed: int) -> None:
        if len(made) == 2:  # those that did not fit have made room
            assert [old() for old in made] == [None, None]
        made.append(weakref.ref(trainer))
        if where == "step":
            with_memory_for(3)(trainer, seed)
        if where == "attach":
            attaches_three(trainer, seed)

    on_new_trainers(monkeypatch, change)
    if where == "scoring":
        scores_three(monkeypatch)
    search = Search(prepare(resolve(tiny(small_space, tmp_path / "run", cohort=16, **PARTS))))
    events = list(stepwise(search.run))
    assert [event.text for event in events if isinstance(event, Noted)] == [
        "cohort 1 does not fit into memory: its 5 heads train in cohorts of 3 and 2, each from the "
        "base's initial weights"
    ]
    found = read_run(search.run_directory)
    assert found.facts["status"] == "complete"
    assert found.facts["splits"] == [{"cohort": 0, "parts": [3, 2]}]
    same_tables(in_cohorts_of_three, found)
    whole, split = (
        {t.user_attrs["candidate"]: t.user_attrs["cohort"] for t in load_study(each).trials}
        for each in (in_cohorts_of_three, found)
    )
    assert whole == split
    last = next(event for event in reversed(events) if isinstance(event, Scored))
    assert (last.throughput.cohorts, last.throughput.seconds_left) == (2, 0)


def test_heads_that_had_been_pruned_stay_so_when_memory_runs_out_at_a_later_rung(
    space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others begin anew in two cohorts, and are pruned against those of their own."""
    on_new_trainers(monkeypatch, with_memory_for(3, begin=5))
    settings = tiny(space_file, tmp_path / "run", cohort=16, **{**FEW, "min_keep": 1})
    found = run(settings)
    assert found.facts["splits"] == [{"cohort": 0, "parts": [3, 3]}]
    ranking = found.ranking.set_index("candidate")
    assert {name for name in ranking.index if ranking.loc[name, "cohort"] == 0} == {
        name for name in ranking.index if ranking.loc[name, "rungs"] == 1
    }
    assert list(ranking["cohort"].value_counts().sort_index()) == [3, 3, 3]
    assert ranking.loc["identity", "cohort"] == ranking.loc["own-d2", "cohort"] == 1
    reasons = ranking[ranking["state"] == "pruned"].groupby("cohort")["reason"].unique()
    assert {cohort: list(of) for cohort, of in reasons.items()} == {
        0: ["not among the best 4 of 7 at rung 1"],
        2: ["not among the best 2 of 3 at rung 2"],
    }
    rows = found.rungs.groupby("candidate")["rung"].apply(list)
    for row in found.ranking.itertuples():
        assert rows[row.candidate] == list(range(row.rungs + 1))
    assert found.rungs.groupby(["cohort", "rung"])["base_linear"].nunique().max() == 1
    trials = {t.user_attrs["candidate"]: t for t in load_study(found).trials}
    for name in ranking.index:
        assert trials[name].user_attrs["cohort"] == ranking.loc[name, "cohort"]
        assert trials[name].state.name.lower() == ranking.loc[name, "state"]


def test_a_head_that_does_not_fit_even_alone_is_set_aside(
    small_space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(trainer: Trainer, seed: int) -> None:
        step = trainer.step

        def one(*arguments: Any) -> None:
            if "resmlp-d1" in trainer.student.heads:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            step(*arguments)

        trainer.step = one  # type: ignore[method-assign]

    on_new_trainers(monkeypatch, change)
    settings = tiny(small_space, tmp_path / "run", cohort=16, pruner="none", **FEW)
    search = Search(prepare(resolve(settings)))
    said = [event.text for event in stepwise(search.run) if isinstance(event, Noted)]
    assert said[-1] == (
        "resmlp-d1 does not fit into memory even alone with the base: set aside; a smaller "
        "--batch-size needs less"
    )
    found = read_run(search.run_directory)
    ranking = found.ranking.set_index("candidate")
    assert tuple(ranking.loc["resmlp-d1", ["state", "reason"]]) == ("failed", TOO_LARGE)
    assert set(ranking.drop("resmlp-d1")["state"]) == {"complete"}
    trust = "\n".join(content(found).trust)
    assert "resmlp-d1 failed: too large for memory." in trust
    assert "Cohort 1 did not fit into memory: its 5 heads trained in cohorts of 3 and 2" in trust
    [trial] = [t for t in load_study(found).trials if t.user_attrs["candidate"] == "resmlp-d1"]
    assert trial.state == TrialState.FAIL


def test_cohorts_of_a_sampled_space_are_split_as_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = tmp_path / "large.yaml"
    large.write_text(
        "families:\n  mixer: {depth: {low: 1, high: 3}, mlp_ratio: {low: 1.0, high: 2.0}}\n"
        "controls:\n  identity:\n"
    )
    on_new_trainers(monkeypatch, with_memory_for(2))
    changes = {**FEW, "epochs": 1, "rungs": 1, "trials": 6, "cohort": 3}
    found = run(tiny(large, tmp_path / "run", **changes))
    assert list(found.ranking["cohort"].value_counts().sort_index()) == [2, 1, 2, 1]
    assert set(found.ranking["state"]) == {"complete"}
    assert found.facts["splits"] == [{"cohort": c, "parts": [2, 1]} for c in (0, 2)]


def test_other_errors_are_not_taken_for_want_of_memory(
    small_space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(trainer: Trainer, seed: int) -> None:
        def one(*arguments: Any) -> None:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

        trainer.step = one  # type: ignore[method-assign]

    on_new_trainers(monkeypatch, change)
    search = Search(prepare(resolve(tiny(small_space, tmp_path / "run", **FEW))))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        list(stepwise(search.run))


def test_the_base_in_the_report_is_the_one_beside_the_first_head(finished: Run) -> None:
    first = finished.ranking.iloc[0]
    row = finished.rungs[
        (finished.rungs["candidate"] == first["candidate"])
        & (finished.rungs["rung"] == first["rungs"])
    ].iloc[0]
    assert finished.facts["baselines"]["base_knn"] == pytest.approx(row["base_knn"], rel=1e-5)


def test_scores_are_of_the_teacher_on_the_split_they_belong_to(
    space_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accuracies of the network's features by scikit-learn, on the same bank and splits."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    from headsearch.data import normalize

    monkeypatch.setattr(labelled, "linear_scores", linear_scores)  # fitted to the end
    many = {"eval_images": 128, "bank_images": 128}
    prepared = prepare(resolve(tiny(space_file, Path("unused"), **many)))
    data = prepared.data
    network = prepared.training.new_trainer("joint").teacher.network
    scores = prepared.training.scores(network)
    assert data.bank is not None
    with torch.no_grad():
        network.eval()
        bank, queries = (
            network(normalize(images.batch(torch.arange(len(images))))).base.pooled_BD.numpy()
            for images in (data.bank, data.queries)
        )
    scaler = StandardScaler().fit(bank)
    probe = LogisticRegression(max_iter=2000).fit(scaler.transform(bank), data.bank.labels)
    expected = probe.score(scaler.transform(queries[data.report]), data.queries.labels[data.report])
    assert scores.base.report is not None
    assert scores.base.report.linear == pytest.approx(expected, abs=0.08)
    assert not set(data.choose.tolist()) & set(data.report.tolist())
    assert BASE not in network.heads


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base": "vit_q"}, "unknown base"),
        ({"objective": "dina"}, "did you mean 'dino'"),
        ({"pruner": "rungs"}, "did you mean 'rung'"),
        ({"sampler": "tpee"}, "did you mean 'tpe'"),
        ({"discrepancy": "ckka"}, "did you mean 'cka'"),
        ({"epochs": 1, "rungs": 50}, "steps are fewer than 50 rungs"),
        ({"device": "cudda"}, "--device"),
        ({"space": "heds.yaml"}, "did you mean 'heads.yaml'"),
        ({"data": "no/such/folder"}, "no/such/folder"),
        ({"discrepancy": "prototype_kl"}, "needs an objective with prototypes (dino or ibot)"),
        ({"trials": 2}, "no room beside the 2 controls"),
    ],
)
def test_what_cannot_run_says_why_before_anything_is_written(
    space_file: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError) as error:
        prepare(resolve(tiny(space_file, tmp_path / "run", **changes)))
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("storage", ["nonsense", "sqlite:////no/such/folder/x.db", "redis://x"])
def test_a_storage_that_cannot_be_opened_is_refused_before_anything_is_written(
    space_file: Path, tmp_path: Path, storage: str
) -> None:
    prepared = prepare(resolve(tiny(space_file, tmp_path / "run", storage=storage)))
    with pytest.raises(UserError, match="--storage: cannot open it"):
        Search(prepared)
    assert not (tmp_path / "run").exists()


def test_an_existing_run_directory_is_not_touched(finished: Run, space_file: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        Search(prepare(resolve(tiny(space_file, finished.path))))


def test_heads_are_shared_out_evenly_over_cohorts() -> None:
    assert cohort_sizes(13, 12) == [7, 6]
    assert cohort_sizes(12, 12) == [12]
    assert cohort_sizes(25, 12) == [9, 8, 8]


def test_heads_on_earlier_maps_and_of_a_user_s_own_train_beside_the_others(tmp_path: Path) -> None:
    """On a base of stages, whose maps differ in width and size."""
    (tmp_path / "my_heads.py").write_text(
        "from torch import nn\n\n\n"
        "def blur(dim, grid, side=3):\n"
        "    return nn.Conv2d(dim, dim, side, padding=side // 2, groups=dim)\n"
    )
    file = tmp_path / "places.yaml"
    file.write_text(
        "families:\n"
        "  resmlp: {depth: 1, attach_at: [0, 1, 3]}\n"
        "  mine: {module: 'my_heads.py:blur', side: [3, 5], attach_at: {choices: [0, 2]}}\n"
        "controls:\n  identity:\n"
    )
    other = {"base": "test_convnext", "base_args": None, "image_size": 32, "patch_size": None}
    settings = tiny(file, tmp_path / "run", **other)
    found = run(settings | {"epochs": 1, "rungs": 1, "pruner": "none"})
    assert set(found.ranking["candidate"]) == {
        "identity",
        "resmlp-d1",
        "resmlp-d1-before1",
        "resmlp-d1-before3",
        "mine",
        "mine-before2",
        "mine-side5",
        "mine-side5-before2",
    }
    assert set(found.ranking["state"]) == {"complete"}
    by_name = found.ranking.set_index("candidate")
    assert by_name["discrepancy"].notna().all()
    # The first stage's map differs from the last's, whatever a head makes of it.
    assert by_name.loc["resmlp-d1-before3", "discrepancy"] > 0.05
    assert by_name.loc["mine-before2", "params_m"] == pytest.approx(32 * 10 / 1e6)
    assert by_name.loc["mine", "params_m"] == pytest.approx(64 * 10 / 1e6)
    content = found.config["space_content"]["families"]["mine"]
    assert content["module"] == "my_heads.py:blur"
    assert len(content["sha256"]) == 64


def test_scores_over_seeds_are_the_means_of_searches_under_each(
    finished: Run, space_file: Path, tmp_path: Path
) -> None:
    """Without pruning, a search under two seeds is two searches, and its tables their means."""
    shared = {"pruner": "none", "data_seed": 0, "epochs": 1, "rungs": 1}
    both = run(tiny(space_file, tmp_path / "both", seeds=2, **shared))
    alone = [run(tiny(space_file, tmp_path / f"{s}", seed=s, **shared)) for s in (0, 1)]
    order = ["seed", "candidate", "rung"]
    pd.testing.assert_frame_equal(
        both.scores.sort_values(order).reset_index(drop=True),
        pd.concat([each.scores for each in alone]).sort_values(order).reset_index(drop=True),
    )
    key = ["candidate", "rung"]
    columns = ["discrepancy", "head_knn", "head_linear", "base_knn", "base_linear", "loss"]
    means = pd.concat([each.rungs for each in alone]).groupby(key)[columns].mean()
    found = both.rungs.set_index(key)[columns].sort_index()
    pd.testing.assert_frame_equal(found, means, rtol=1e-5)
    scores = both.scores[both.scores["rung"] == 1].groupby("candidate")["score"].mean()
    for row in both.ranking.itertuples():
        assert row.score == pytest.approx(scores[row.candidate], rel=1e-5)
    assert both.facts["cost_base_equivalents"] == pytest.approx(
        sum(each.facts["cost_base_equivalents"] for each in alone)
    )
    assert both.facts["solo_equivalents"] == pytest.approx(
        sum(each.facts["solo_equivalents"] for each in alone)
    )


def test_a_head_that_diverges_under_one_seed_leaves_all(
    space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_new_trainers(monkeypatch, with_a_broken_head("mixer-d1", under=1))
    search = Search(prepare(resolve(tiny(space_file, tmp_path / "run", seeds=2, epochs=1))))
    search.run()
    states = read_run(search.run_directory).ranking.set_index("candidate")["state"]
    assert states["mixer-d1"] == "failed"
    assert "failed" not in set(states.drop("mixer-d1"))
