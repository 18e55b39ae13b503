"""What --log tensorboard leaves, read back as TensorBoard reads it."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.util import tensor_util

from headsearch.config.settings import resolve
from headsearch.errors import UserError
from headsearch.pretraining import session as pretraining_session
from headsearch.pretraining.run import Pretraining
from headsearch.pretraining.setup import prepare_again, prepare_pretraining
from headsearch.report.session import carry_out
from headsearch.runs.run import read_run
from headsearch.study import session as search_session
from headsearch.study.events import Advanced, Scored
from headsearch.study.resuming import resumed_search
from headsearch.study.search import Search
from headsearch.training.loop import READ_EVERY
from headsearch.training.trainer import Trainer
from helpers.changed_trainers import on_new_trainers, with_a_base_that_diverges
from helpers.command_line import in_process
from helpers.stepwise import stepwise
from helpers.tiny_search import begun, settings

optuna.logging.set_verbosity(optuna.logging.WARNING)

Curves = dict[str, list[tuple[int, float]]]
CASES: dict[str, dict[str, Any]] = {
    "one seed": {"log": "tensorboard", "rungs": 2},
    "two seeds": {"log": "tensorboard", "rungs": 2, "seeds": 2, "epochs": 2},
}


def curves(folder: Path) -> Curves:
    """Every tag's points, in the order in which TensorBoard shows them."""
    read = plugin_event_accumulator.EventAccumulator(
        str(folder), size_guidance={plugin_event_accumulator.TENSORS: 0}
    )
    read.Reload()
    return {
        tag: [(p.step, float(tensor_util.make_ndarray(p.tensor_proto))) for p in read.Tensors(tag)]
        for tag in read.Tags()["tensors"]
        if not tag.startswith("custom_scalars")
    }


def cohorts(run: Path) -> dict[int, Curves]:
    """The curves of each cohort, by its number in the tables."""
    folders = (run / "tensorboard").iterdir()
    return {int(folder.name.removeprefix("cohort-")) - 1: curves(folder) for folder in folders}


def deterministic(found: Curves) -> Curves:
    return {tag: points for tag, points in found.items() if not tag.startswith("speed/")}


def events_of(running: Search | Pretraining) -> Iterator[Any]:
    """The events of a run, whose curves are written as its settings ask for."""
    session = search_session if isinstance(running, Search) else pretraining_session
    written = session.observers_of(running, None)
    return stepwise(lambda observe: carry_out(running, *written, nullcontext(observe)))


def run_to_the_end(search: Search) -> Path:
    for _ in events_of(search):
        pass
    return search.run_directory


@pytest.fixture(scope="module", params=["one seed", "two seeds"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search in two cohorts that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    return run_to_the_end(Search(begun(folder, "run", **CASES[request.param])))


def test_the_points_at_rungs_are_those_of_the_tables(whole: Path) -> None:
    run = read_run(whole)
    seeds, found = int(run.config["seeds"]), cohorts(whole)
    assert set(found) == set(run.rungs["cohort"]) == {0, 1}
    expected: dict[tuple[int, str], list[tuple[int, float]]] = defaultdict(list)
    for row in run.rungs.to_dict("records"):
        step, head, cohort = int(row["step"]) * seeds, row["candidate"], int(row["cohort"])
        expected[cohort, f"discrepancy/{head}"].append((step, row["discrepancy"]))
        expected[cohort, f"k-NN/{head}"].append((step, row["head_knn"]))
        expected[cohort, f"linear/{head}"].append((step, row["head_linear"]))
        for chart, column in (("k-NN", "base_knn"), ("linear", "base_linear")):
            point = (step, row[column])
            if point not in expected[cohort, f"{chart}/(base)"]:
                expected[cohort, f"{chart}/(base)"].append(point)
    for (cohort, tag), points in expected.items():
        assert found[cohort][tag] == [pytest.approx(point, rel=1e-5) for point in points], tag
    groups = ("discrepancy/", "k-NN/", "linear/")
    logged = {(c, tag) for c, tags in found.items() for tag in tags if tag.startswith(groups)}
    assert logged == set(expected)


def test_losses_ranks_live_heads_and_speed_are_there(whole: Path) -> None:
    run = read_run(whole)
    last = run.rungs["rung"].max()
    for cohort, tags in cohorts(whole).items():
        rows = run.rungs[run.rungs["cohort"] == cohort]
        seeds = int(run.config["seeds"])
        end = seeds * rows["step"].max()
        for head, of_head in rows.groupby("candidate"):
            assert len(tags[f"effective rank/{head}"]) == len(of_head)
            step = seeds * int(of_head["step"].iloc[-1])
            assert dict(tags[f"loss/{head}"])[step] == pytest.approx(
                of_head["loss"].iloc[-1], rel=1e-5
            )
        assert [step for step, _ in tags["loss/(base)"]][-1] == end
        assert all(rate > 0 for _, rate in tags["speed/images per second"])
        # after a rung: those that were scored at the next one; none after the last
        live = [*rows[rows["rung"] > 0].groupby("rung").size(), 0]
        assert [count for _, count in tags["search/live heads"]] == live
        assert len(live) == last + 1


def test_a_search_that_goes_on_leaves_the_same_points_once(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at any step, with a snapshot of it (one seed); or torn away, to go on from the one
    before (two seeds)."""
    torn = read_run(whole).config["seeds"] == 2
    case = CASES["two seeds" if torn else "one seed"]
    lives: list[Search] = []
    steps_taken = count()

    def stop_now_and_then(trainer: Trainer, seed: int) -> None:
        step = trainer.step

        def one(crops: Any, position: Any, *local: Any) -> None:
            step(crops, position, *local)
            if next(steps_taken) % 4 == 2:
                lives[-1].stop.set()

        trainer.step = one  # type: ignore[method-assign]

    if not torn:
        on_new_trainers(monkeypatch, stop_now_and_then)
    lives.append(Search(begun(tmp_path, "run", **case)))
    run = lives[-1].run_directory
    while not lives[-1].complete:
        with closing(events_of(lives[-1])) as events:
            for number, event in enumerate(events, 1):
                if torn and number >= 2 + len(lives) and isinstance(event, Advanced):
                    monkeypatch.setattr(lives[-1].state, "keep", lambda *_, **__: None)
                    break
        if not lives[-1].complete:
            lives.append(resumed_search(read_run(run)))
    found, expected = cohorts(run), cohorts(whole)
    assert len(lives) > 2
    assert found.keys() == expected.keys()
    for cohort, tags in expected.items():
        assert deterministic(found[cohort]) == deterministic(tags)
        speed = [[s for s, _ in of["speed/images per second"]] for of in (found[cohort], tags)]
        assert speed[0] == speed[1]


def test_a_base_that_goes_back_leaves_one_point_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_new_trainers(monkeypatch, with_a_base_that_diverges(at=4, above=2e-4))
    run = run_to_the_end(Search(begun(tmp_path, "run", log="tensorboard", cohort=8, rungs=2)))
    assert len(read_run(run).facts["lowered"]) == 2  # to the rung, and then to the first weights
    for tag, points in cohorts(run)[0].items():
        steps = [step for step, _ in points]
        assert steps == sorted(set(steps)), tag


def test_a_pretraining_writes_its_base_and_its_head(tmp_path: Path) -> None:
    ours = settings(tmp_path, out=tmp_path / "run", log="tensorboard")
    flags = {name: value for name, value in ours.items()
             if name not in ("space", "cohort", "min_keep", "coupling")}  # fmt: skip
    planned = prepare_pretraining(flags, head="poolformer-d1-p3")
    pretraining = Pretraining(planned)
    for event in events_of(pretraining):
        if getattr(event, "rung", 0) == 1:
            pretraining.stop.set()
    run = pretraining.run_directory
    pretraining = Pretraining(prepare_again(run), run)
    for _ in events_of(pretraining):
        pass
    table, found = pd.read_csv(run / "pretrain.csv"), curves(run / "tensorboard")
    for tag, column in {
        "k-NN/(base)": "base_knn",
        "linear/(base)": "base_linear",
        "effective rank/(base)": "effective_rank",
        "k-NN/poolformer-d1-p3": "head_knn",
        "discrepancy/poolformer-d1-p3": "discrepancy",
    }.items():
        points = list(zip(table["step"], table[column], strict=True))
        assert found[tag] == [pytest.approx(point, rel=1e-5) for point in points], tag
    read_at = sorted({*table["step"][1:], *range(READ_EVERY, table["step"].max(), READ_EVERY)})
    for owner in ("(base)", "poolformer-d1-p3"):
        assert [step for step, _ in found[f"loss/{owner}"]] == read_at


def test_curves_are_off_unless_asked_for_and_may_begin_with_a_resume(tmp_path: Path) -> None:
    search = Search(begun(tmp_path, "run", cohort=8, rungs=2))
    for event in events_of(search):
        if isinstance(event, Scored) and event.rung == 1:
            search.stop.set()
    run = search.run_directory
    assert not (run / "tensorboard").exists()
    run_to_the_end(resumed_search(read_run(run), flags={"log": "tensorboard"}))
    assert [step for step, _ in cohorts(run)[0]["search/live heads"]] == [6]


@pytest.mark.parametrize("command", ["run", "resume", "pretrain"])
def test_a_missing_package_is_told_in_one_line_before_anything_is_written(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    run = tmp_path / "left"
    if command == "resume":
        search = Search(begun(tmp_path, "left"))
        next(events := stepwise(search.run))
        events.close()
    before = sorted(tmp_path.rglob("*"))
    looked_for = importlib.util.find_spec
    monkeypatch.setattr(
        "headsearch.config.machine.find_spec",
        lambda name: None if name == "tensorboard" else looked_for(name),
    )
    arguments = {
        "run": ["--out", str(tmp_path / "new"), "--data", str(tmp_path / "no such data")],
        "resume": [str(run)],
        "pretrain": ["--head", "none", "--out", str(tmp_path / "new")],
    }[command]
    code, _, said = in_process(capsys, monkeypatch, command, *arguments, "--log", "tensorboard")
    assert code == 2
    assert said.startswith("headsearch: --log tensorboard needs the package tensorboard: pip")
    assert said.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unwritable_folder_costs_the_curves_and_not_the_run(tmp_path: Path) -> None:
    search = Search(begun(tmp_path, "run", log="tensorboard", cohort=8, rungs=1, epochs=1))
    run = search.run_directory
    (run / "tensorboard").write_text("in the way")
    with pytest.warns(UserWarning, match=r"tensorboard.*: cannot write.*the run continues") as told:
        assert run_to_the_end(search) == run
    assert len([each for each in told if "cannot write" in str(each.message)]) == 1
    assert read_run(run).facts["status"] == "complete"


def test_another_log_is_told_with_the_choices() -> None:
    with pytest.raises(UserError, match=r"--log.*'none' or 'tensorboard'.*'wandb'"):
        resolve({"log": "wandb"})
