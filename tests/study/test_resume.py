"""What is left of a run after any end, and what becomes of it: always the same tables."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import torch
from optuna.trial import TrialState

import headsearch
from headsearch.config.settings import resolve
from headsearch.config.yaml_file import located
from headsearch.errors import UserError
from headsearch.models.space import read_space
from headsearch.runs import snapshot
from headsearch.runs.directory import claimed
from headsearch.runs.run import read_run
from headsearch.runs.snapshot import BEFORE, FOLDER, LATEST, Snapshot, read_snapshot, write_snapshot
from headsearch.runs.tables import SOLO_COLUMNS
from headsearch.study import proposals, state
from headsearch.study.events import Advanced, Noted, Scored
from headsearch.study.resuming import resumed_search
from headsearch.study.search import Search
from headsearch.study.setup import SearchSetup, prepare
from headsearch.study.trials import Trials
from headsearch.training.inputs import InMemoryInputs
from headsearch.training.trainer import Trainer
from helpers.changed_trainers import (
    on_new_trainers,
    with_a_base_that_diverges,
    with_an_infinite_base,
    with_memory_for,
)
from helpers.in_ranks import ForkedJob
from helpers.stepwise import stepwise
from helpers.tiny_search import SAMPLED, SPACE, begun, settings

optuna.logging.set_verbosity(optuna.logging.WARNING)

TABLES = ("rungs.csv", "scores.csv")


def finish(search: Search) -> Path:
    search.run()
    return search.run_directory


def same(first: Path, second: Path) -> None:
    """Byte for byte, but for how long a head's step took."""
    for name in TABLES:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    tables = [pd.read_csv(run / "ranking.csv", dtype=str) for run in (first, second)]
    pd.testing.assert_frame_equal(*(table.drop(columns="step_ms") for table in tables))
    states = [
        {
            trial.user_attrs["candidate"]: (trial.state, trial.intermediate_values, trial.values)
            for trial in study(run).trials
            if "cohort" in trial.user_attrs
        }
        for run in (first, second)
    ]
    assert states[0] == states[1]
    facts = [read_run(run).facts for run in (first, second)]
    for of in ("status", "cost_base_equivalents", "solo_equivalents", "baselines"):
        assert facts[0][of] == pytest.approx(facts[1][of]), of


def study(run: Path) -> optuna.Study:
    name = str(read_run(run).config["study_name"])
    return optuna.load_study(study_name=name, storage=f"sqlite:///{run / 'study.db'}")


CASES: dict[str, dict[str, Any]] = {
    "enumerated": {},
    "sampled": {"space": SAMPLED, "trials": 6, "cohort": 3, "rungs": 2, "epochs": 2},
    "observe under two seeds": {"coupling": "observe", "seeds": 2, "epochs": 1, "rungs": 2},
    "with a teacher": {"objective": "ibot", "epochs": 1, "rungs": 2},
}
SHORT: dict[str, Any] = {"space": SAMPLED, "trials": 4, "cohort": 2, "rungs": 2, "epochs": 1}
"""Two cohorts, each with a rung at which a head can leave."""


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run directory of a case that nothing interrupted."""

    @cache
    def uninterrupted(case: str) -> Path:
        folder = tmp_path_factory.mktemp("whole")
        return finish(Search(begun(folder, "run", **{**CASES, "short": SHORT}[case])))

    return uninterrupted


def test_a_search_that_is_stopped_again_and_again_ends_as_if_it_never_was(
    case: str, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    """Stopped in the midst of rungs, at rungs and between cohorts, closed or told to stop."""
    search, stops = Search(begun(tmp_path, "stopped", **CASES[case])), 0
    while True:
        events = stepwise(search.run)
        for seen, event in enumerate(events, 1):
            if seen == 1 + stops % 3:
                if stops % 2:
                    search.stop.set()
                else:
                    events.close()
                    break
            assert isinstance(event, Advanced | Scored)
        if read_run(search.run_directory).facts["status"] == "complete":
            break
        stops += 1
        search = resumed_search(read_run(search.run_directory))
    assert stops > 3
    same(whole(case), search.run_directory)


def test_told_to_stop_it_stops_after_the_step_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = 0

    def counted(trainer: Trainer, seed: int) -> None:
        taken = trainer.step

        def one(*arguments: Any) -> None:
            nonlocal step
            taken(*arguments)
            step += 1
            if step == 3:
                search.stop.set()

        trainer.step = one  # type: ignore[method-assign]

    on_new_trainers(monkeypatch, counted)
    search = Search(begun(tmp_path, "run", epochs=8, rungs=1))
    finish(search)
    assert step == 3
    left = read_snapshot(search.run_directory)
    assert left is not None
    assert left.record["steps"] == {"0": 3}
    assert read_run(search.run_directory).facts["status"] == "interrupted"


def killed_after(directory: Path, prepared: SearchSetup | None, seconds: float) -> bool:
    """Searches or goes on in a process of its own, SIGKILLed after a while; whether it was.

    It is forked, so that nothing is imported anew and the moments are those of the search.
    """
    fork = multiprocessing.get_context("fork")

    def work() -> None:
        torch.set_num_threads(1)
        if prepared is not None and not (directory / "config.yaml").exists():
            finish(Search(prepared))
        else:
            finish(resumed_search(read_run(directory)))

    child = fork.Process(target=work)
    child.start()
    child.join(seconds)
    killed = child.is_alive()
    if killed:
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert killed or child.exitcode == 0
    return killed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("case", ["enumerated", "sampled"], indirect=True)
def test_a_search_killed_at_random_moments_ends_as_if_it_never_was(
    case: str, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    """SIGKILL, ten times or more, in the midst of whatever it writes."""
    dice, kills = random.Random(case), 0
    files = [whole(case) / name for name in ("config.yaml", "ranking.csv")]
    began, ended = (file.stat().st_mtime for file in files)
    took = ended - began  # so that the moments are those of the search, however fast it is
    for search in range(10):
        directory = tmp_path / f"killed-{search}"
        prepared = begun(tmp_path, directory.name, **CASES[case])
        while killed_after(directory, prepared, took * dice.uniform(0, 0.3) if kills < 10 else 600):
            kills += (directory / "config.yaml").exists()
        same(whole(case), directory)
        if kills >= 10:
            break
    assert kills >= 10


def test_what_a_pruner_that_remembers_has_said_still_holds(tmp_path: Path) -> None:
    """Successive halving answers otherwise when it is asked twice about a rung."""
    changes = {
        "pruner": "successive-halving", "epochs": 2, "rungs": 2, "min_keep": 1, "cohort": 8,
    }  # fmt: skip
    whole = finish(Search(begun(tmp_path, "whole", **changes)))
    ranking = read_run(whole).ranking
    assert ((ranking["state"] == "pruned") & (ranking["rungs"] == 1)).any()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("headsearch.study.state.write_snapshot", power_cut_at(2, write_snapshot))
        with pytest.raises(PowerCut):
            finish(Search(begun(tmp_path, "cut", **changes)))
    same(whole, finish(resumed_search(read_run(tmp_path / "cut"))))


def power_cut_at(call: int, real: Callable[..., Any], after: bool = False) -> Callable[..., Any]:
    calls = 0

    def cut(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            raise PowerCut
        result = real(*arguments, **options)
        if calls == call:
            raise PowerCut
        return result

    return cut


@pytest.mark.parametrize("lost", ["nothing", "the latest", "both"])
def test_a_run_whose_snapshots_are_lost_goes_on_from_what_is_left(
    lost: str, tmp_path: Path, whole: Callable[[str], Path]
) -> None:
    """From the one before, though the study has been told of heads that it still trains."""
    search = Search(begun(tmp_path, "run"))
    events = stepwise(search.run)
    for event in events:
        if isinstance(event, Scored) and event.rung == 2:
            events.close()
            break
    folder = search.run_directory / FOLDER
    for name in {"nothing": [], "the latest": [LATEST], "both": [LATEST, BEFORE]}[lost]:
        (folder / name).write_bytes((folder / name).read_bytes()[:100])
    if lost == "both":
        with pytest.raises(UserError, match="both snapshots are missing or damaged, so it cannot"):
            resumed_search(read_run(search.run_directory))
    run = read_run(search.run_directory)
    found = finish(resumed_search(run, start_over=lost == "both"))
    assert (found / "rungs.csv").read_bytes() == (whole("enumerated") / "rungs.csv").read_bytes()


def test_gains_that_were_verified_while_a_search_was_interrupted_stay(tmp_path: Path) -> None:
    search = Search(begun(tmp_path, "run", epochs=2, rungs=2))
    for event in stepwise(search.run):
        if isinstance(event, Scored):
            break
    solo = {"family": "", "seed": 0, "choose_knn": 0.4, "choose_linear": 0.4}
    rows = [
        {**solo, "candidate": "none", "family": "none", "base_knn": 0.4, "base_linear": 0.5},
        {**solo, "candidate": "mixer-d1", "family": "mixer", "base_knn": 0.45, "base_linear": 0.55},
    ]
    pd.DataFrame(rows, columns=list(SOLO_COLUMNS)).to_csv(
        search.run_directory / "solo.csv", index=False
    )
    found = read_run(finish(resumed_search(read_run(search.run_directory)))).ranking
    gains = found.set_index("candidate")["gain"]
    assert gains["mixer-d1"] == pytest.approx(0.05)
    assert gains.drop("mixer-d1").isna().all()
    assert set(found["state"]) == {"complete", "pruned"}


@pytest.mark.parametrize("content", [None, b"no database"])
def test_a_study_that_is_gone_is_told_in_a_line(tmp_path: Path, content: bytes | None) -> None:
    search = Search(begun(tmp_path, "run", epochs=2, rungs=2))
    events = stepwise(search.run)
    for event in events:
        if isinstance(event, Scored):
            events.close()
            break
    file = search.run_directory / "study.db"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"its study cannot be opened .*search again"):
        resumed_search(read_run(search.run_directory))


def test_a_cohort_that_came_up_short_takes_in_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, found = proposals._ask, 0

    def three(*arguments: Any) -> Any:
        nonlocal found
        found += 1
        return real(*arguments) if found <= 3 else None

    prepared = begun(tmp_path, "run", **{**CASES["sampled"], "cohort": 6})  # asks for one
    monkeypatch.setattr(proposals, "_ask", three)
    search = Search(prepared)
    events = stepwise(search.run)
    next(events)
    events.close()
    monkeypatch.setattr(proposals, "_ask", real)
    done = finish(resumed_search(read_run(search.run_directory)))
    assert len(read_run(done).ranking) == 3


def begun_in_python(tmp_path: Path, space: dict[str, Any]) -> Path:
    """The run directory of a search of a space in a dict that was interrupted at its first rung."""
    flags = {name: value for name, value in settings(tmp_path).items() if name != "space"}
    prepared = prepare(
        resolve({**flags, "out": tmp_path / "run"}),
        inputs=InMemoryInputs(space=read_space(located(space, "space"), "space")),
    )
    events = stepwise(Search(prepared).run)
    next(events)
    events.close()
    return tmp_path / "run"


def test_a_search_of_a_space_in_a_dict_goes_on_without_it(tmp_path: Path) -> None:
    run = begun_in_python(
        tmp_path, {"families": {"mixer": {"depth": 1}, "poolformer": {"depth": 1}}}
    )
    finish(resumed_search(read_run(run)))
    done = headsearch.resume(run)
    assert done.run.facts["status"] == "complete"
    assert {"mixer-d1", "poolformer-d1-p3"} <= set(done.ranking["candidate"])
    assert headsearch.resume(done).run is done.run


def test_a_search_with_a_family_of_ones_own_in_a_dict_goes_on_where_it_is_given_again(
    tmp_path: Path,
) -> None:
    (tmp_path / "own_heads.py").write_text(
        "from torch import nn\n\ndef widened(dim):\n    return nn.Conv2d(dim, dim, 3, padding=1)\n"
    )
    module = f"{tmp_path / 'own_heads.py'}:widened"
    space = {"families": {"mixer": {"depth": 1}, "widened": {"module": module}}}
    run = begun_in_python(tmp_path, space)
    with pytest.raises(UserError, match=r"its space was given in Python; give it again there"):
        headsearch.resume(run)
    done = headsearch.resume(run, space=space, progress=False)
    assert done.run.facts["status"] == "complete"


class PowerCut(BaseException):
    """The end of a process, at a place of the test's choosing."""


WRITES = {
    "before the snapshot is written": ("headsearch.study.state.write_snapshot", False),
    "right after it": ("headsearch.study.state.write_snapshot", True),
    "before Optuna is told": ("optuna.Study.tell", False),
    "in the midst of telling": ("optuna.Study.tell", True),
    "before a report": ("optuna.Trial.report", False),
    "in the midst of the reports": ("optuna.Trial.report", True),
    "before a trial is asked for": ("optuna.Study.ask", False),
    "in the midst of asking": ("optuna.Study.ask", True),
    "while a trial is described": ("optuna.Trial.set_user_attr", True),
    "before the tables are written": ("headsearch.study.leaderboard.Leaderboard.write", False),
}


@pytest.mark.parametrize("where", WRITES)
def test_study_and_snapshot_agree_wherever_the_power_goes(
    where: str, whole: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes at the first call of what is named, and at the third one after that."""
    target, after = WRITES[where]
    module, _, name = target.rpartition(".")
    owner = pytest.importorskip(module) if module == "headsearch.study.state" else None
    if owner is None:
        package, _, holder = module.rpartition(".")
        owner = getattr(pytest.importorskip(package), holder)
    search = Search(begun(tmp_path, "cut", **SHORT))
    for time_of_call in (1, 3):
        with monkeypatch.context() as patched:
            cut = power_cut_at(time_of_call, getattr(owner, name), after)
            patched.setattr(owner, name, cut)
            with pytest.raises(PowerCut):
                finish(search)
        search = resumed_search(read_run(tmp_path / "cut"))
    again = finish(search)
    same(whole("short"), again)
    left = [trial for trial in study(again).trials if not trial.state.is_finished()]
    assert [trial for trial in left if trial.state == TrialState.RUNNING] == []


def test_a_snapshot_that_is_not_whole_gives_way_to_the_one_before(tmp_path: Path) -> None:
    for number in range(3):
        write_snapshot(tmp_path, Snapshot({"x": torch.full((4,), number)}, {"number": number}))
    latest = tmp_path / FOLDER / LATEST
    found = read_snapshot(tmp_path)
    assert found is not None
    assert found.record["number"] == 2
    latest.write_bytes(latest.read_bytes()[:20])
    before = read_snapshot(tmp_path)
    assert before is not None
    assert before.record["number"] == 1
    assert torch.equal(before.tensors["x"], torch.full((4,), 1))
    (tmp_path / FOLDER / BEFORE).write_bytes(b"")
    assert read_snapshot(tmp_path) is None


def test_a_snapshot_with_nan_is_refused_in_one_line(tmp_path: Path) -> None:
    tensors = {"0.student.x": torch.full((4,), torch.nan)}
    write_snapshot(tmp_path, Snapshot(tensors, {"number": 1}))
    with pytest.raises(UserError, match=r"damaged: 0\.student\.x holds .*\(NaN\)") as error:
        read_snapshot(tmp_path)
    assert "\n" not in str(error.value)


def test_a_write_that_fails_leaves_the_snapshot_that_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_snapshot(tmp_path, Snapshot({"x": torch.zeros(4)}, {"number": 1}))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("headsearch.runs.snapshot.save_file", full)
    with pytest.raises(OSError, match="No space"):
        write_snapshot(tmp_path, Snapshot({"x": torch.ones(4)}, {"number": 2}))
    found = read_snapshot(tmp_path)
    assert found is not None
    assert found.record["number"] == 1


def test_what_a_run_began_with_must_still_hold(tmp_path: Path) -> None:
    prepared = begun(tmp_path, "run", epochs=2, rungs=2)
    events = stepwise(Search(prepared).run)
    next(events)
    events.close()
    (tmp_path / "space.yaml").write_text(SPACE.replace("mixer: {depth: [1, 2]}", "resmlp: {}"))
    with pytest.raises(UserError, match="space has changed since the run began: it cannot"):
        resumed_search(read_run(tmp_path / "run"))


def test_a_run_whose_base_diverged_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_new_trainers(monkeypatch, with_an_infinite_base)
    search = Search(begun(tmp_path, "run", lr=99, weight_decay=99, epochs=2, rungs=2))
    with pytest.raises(UserError, match="diverged"):
        finish(search)
    with pytest.raises(UserError, match="its base diverged; search again with a lower --lr"):
        resumed_search(read_run(tmp_path / "run"))


# a base that diverges, and memory that runs out ---------------------------------------------------

DIVERGING: dict[str, Any] = {
    "space": "families:\n  mixer: {}\n  poolformer: {}\n  resmlp: {}\ncontrols:\n  identity:\n",
    "images": 48, "batch_size": 16, "epochs": 3, "rungs": 2, "cohort": 8, "lr": 1e-3,
    "min_keep": 2, "eval_images": 32, "bank_images": 32,
}  # fmt: skip
"""Nine steps, rung 1 after the fourth."""


def changed_diverging(trainer: Trainer, seed: int) -> None:
    """Just before the base diverges, a head does, which is back after the first roll-back to the
    rung; the second one goes to the first weights."""
    with_a_base_that_diverges(6, 4e-4, after="identity")(trainer, seed)


def changed_small(trainer: Trainer, seed: int) -> None:
    """After the first rung, memory for two heads; and a base that diverges thereafter, once."""
    with_memory_for(2, begin=5)(trainer, seed)
    with_a_base_that_diverges(6, 7e-4)(trainer, seed)


TROUBLES = {"diverging": changed_diverging, "diverging in little memory": changed_small}


@pytest.fixture(params=TROUBLES)
def trouble(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    on_new_trainers(monkeypatch, TROUBLES[request.param])
    return str(request.param)


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run directory of a search in trouble that nothing interrupted."""

    @cache
    def uninterrupted(trouble: str) -> Path:
        found = Search(begun(tmp_path_factory.mktemp("whole"), "run", **DIVERGING))
        return finish(found)

    return uninterrupted


def test_what_befell_the_searches_in_trouble(trouble: str, troubled: Callable[[str], Path]) -> None:
    found = read_run(troubled(trouble))
    backs = [(one["cohort"], one["back_to"]) for one in found.facts["lowered"]]
    splits = [tuple(one["parts"]) for one in found.facts["splits"]]
    alone = [(0, 4), (0, 0)], []
    assert (backs, splits) == (alone if trouble == "diverging" else ([(1, 4)], [(2, 1)]))
    assert set(found.ranking["state"]) == {"complete", "pruned"}


def test_a_search_in_trouble_that_is_stopped_again_and_again_ends_as_if_it_never_was(
    trouble: str, troubled: Callable[[str], Path], tmp_path: Path
) -> None:
    """At every event: after steps that do not count, after a head has gone, at the news itself."""
    search, said, stops = Search(begun(tmp_path, "stopped", **DIVERGING)), [], 0
    while not search.complete:
        events = stepwise(search.run)
        for event in events:
            said += [event.text] if isinstance(event, Noted) else []
            stops += 1
            if stops % 2:
                events.close()
            else:
                search.stop.set()
        if not search.complete:
            search = resumed_search(read_run(search.run_directory))
    assert len(said) == 2
    assert set(said) <= set(search.notes)
    same(troubled(trouble), search.run_directory)


CUTS: dict[str, tuple[Any, str, bool]] = {
    "before a snapshot": (state, "write_snapshot", False),
    "after it": (state, "write_snapshot", True),
    "in its midst": (snapshot, "_link", True),
    "before Optuna is told": (Trials, "tell", False),
    "before it is told of cohorts": (Trials, "group", False),
}


@pytest.mark.parametrize("cuts", [["in its midst"], [*CUTS]], ids=["one kind", "all kinds"])
def test_setbacks_are_met_once_wherever_the_power_goes(
    cuts: list[str], trouble: str, troubled: Callable[[str], Path], tmp_path: Path
) -> None:
    done = cut_again_and_again(Search(begun(tmp_path, "cut", **DIVERGING)), cuts)
    same(troubled(trouble), done)


def test_a_split_holds_where_there_is_more_memory(
    tmp_path: Path, troubled: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gone on with elsewhere, right after it, the same heads train together."""
    with monkeypatch.context() as patched:
        on_new_trainers(patched, changed_small)
        search = Search(begun(tmp_path, "run", **DIVERGING))
        events = stepwise(search.run)
        for event in events:
            if isinstance(event, Noted):
                events.close()
        whole = troubled("diverging in little memory")
    on_new_trainers(monkeypatch, with_a_base_that_diverges(6, 7e-4))
    same(whole, finish(resumed_search(read_run(search.run_directory))))


ONE_AT_A_TIME = {**DIVERGING, "cohort": 3, "pruner": "none"}


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a search with memory for one head that nothing interrupted."""
    with pytest.MonkeyPatch.context() as patched:
        on_new_trainers(patched, with_memory_for(1))
        return finish(Search(begun(tmp_path_factory.mktemp("split"), "run", **ONE_AT_A_TIME)))


@pytest.mark.parametrize("lost", ["all snapshots", "the latest"])
def test_no_head_is_lost_with_a_snapshot_after_a_split(
    lost: str, split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study knows of cohorts that the run does not any more."""
    on_new_trainers(monkeypatch, with_memory_for(1))
    search = Search(begun(tmp_path, "run", **ONE_AT_A_TIME))
    splits = 0
    events = stepwise(search.run)
    for event in events:
        splits += isinstance(event, Noted)
        if splits == 2:
            events.close()
    folder = search.run_directory / FOLDER
    for file in folder.iterdir():
        if lost == "all snapshots" or file.name == LATEST:
            file.write_bytes(b"cut short")
    run = read_run(search.run_directory)
    finish(resumed_search(run, start_over=lost == "all snapshots"))
    found, expected = read_run(search.run_directory), read_run(split)
    assert set(found.ranking["candidate"]) == set(expected.ranking["candidate"])
    assert set(found.ranking["state"]) == {"complete"}
    cohorts = {t.number: t.user_attrs["cohort"] for t in study(found.path).trials}
    names = {t.user_attrs["candidate"]: t.number for t in study(found.path).trials}
    for row in found.ranking.itertuples():
        assert cohorts[names[row.candidate]] == row.cohort


def cut_again_and_again(search: Search, cuts: list[str]) -> Path:
    """Finishes a search in as many goes as it takes, each but the last cut short somewhere."""
    dice = random.Random(0)
    for number in range(100):
        owner, write, after = CUTS[cuts[number % len(cuts)]]
        with pytest.MonkeyPatch.context() as patched:
            cut = power_cut_at(dice.randint(1, 4), getattr(owner, write), after)
            patched.setattr(owner, write, cut)
            try:
                return finish(search)
            except PowerCut:
                pass
        search = resumed_search(read_run(search.run_directory))
    raise AssertionError("it gets nowhere")


# one at a time, and from the first second ---------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_second_process_is_told_who_holds_the_run(tmp_path: Path) -> None:
    """What a process held that is dead is free."""
    prepared = begun(tmp_path, "run", epochs=2, rungs=2)

    def hold_on() -> None:
        events = stepwise(Search(prepared).run)
        next(events)
        time.sleep(600)
        events.close()

    child = multiprocessing.get_context("fork").Process(target=hold_on, daemon=True)
    child.start()
    while not (tmp_path / "run" / FOLDER / LATEST).exists():
        assert child.is_alive()
        time.sleep(0.05)
    with pytest.raises(UserError, match=rf"run is held by process {child.pid} on .* since 2"):
        resumed_search(read_run(tmp_path / "run"))
    child.kill()
    child.join()
    finish(resumed_search(read_run(tmp_path / "run")))


def test_a_run_can_be_gone_on_with_from_its_first_second(tmp_path: Path) -> None:
    flags = settings(tmp_path, out=tmp_path / "run", epochs=2, rungs=2)
    with claimed(resolve(flags), flags) as directory:
        pass  # and here the power goes, before anything is opened
    assert {file.name for file in directory.iterdir()} == {"config.yaml", ".lock", ".holder"}
    assert read_run(directory).ranking.empty
    again = finish(resumed_search(read_run(directory)))
    same(finish(Search(begun(tmp_path, "whole", epochs=2, rungs=2))), again)


def test_settings_that_cannot_be_used_leave_nothing(tmp_path: Path) -> None:
    flags = settings(tmp_path, out=tmp_path / "new" / "run")
    with pytest.raises(UserError, match="no such base"), claimed(resolve(flags), flags):
        raise UserError("no such base")
    assert not (tmp_path / "new").exists()


def test_what_was_not_asked_for_is_left_for_the_device_to_decide(tmp_path: Path) -> None:
    """A run claimed before its device is known must not go on with another device's budget."""
    with claimed(resolve({"out": tmp_path / "run", "lr": "1e-3"}), {"lr": "1e-3"}) as directory:
        pass
    on_gpu = resolve({}, directory / "config.yaml", accelerator=True)
    assert (on_gpu.budget, on_gpu.lr) == ("standard", 1e-3)


def test_a_full_disk_ends_the_run_with_a_line_and_keeps_the_snapshot(
    tmp_path: Path, whole: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search(begun(tmp_path, "run"))
    real, calls = snapshot.save_file, 0

    def full(*arguments: Any, **options: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise OSError(28, "No space left on device")
        real(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(snapshot, "save_file", full)
        with pytest.raises(UserError, match=r"cannot write: No space left .* headsearch resume"):
            finish(search)
    same(whole("enumerated"), finish(resumed_search(read_run(tmp_path / "run"))))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.usefixtures("without_reports")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_in_order_and_resume_finishes_it(
    number: signal.Signals, tmp_path: Path, whole: Callable[[str], Path]
) -> None:
    flags = [
        part
        for name, value in settings(tmp_path, **CASES["enumerated"]).items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    running = ForkedJob(1, "-m", "headsearch", "run", *flags, "--out", tmp_path / "run")
    running.wait_until_it_says("rung 1/3")
    running.send_signal(number)
    out, err = running.communicate(timeout=300)
    assert running.returncode == 128 + number, err
    assert f"headsearch resume {tmp_path / 'run'} continues from here" in out + err
    assert "Traceback" not in out + err
    for expected in ("complete", "there is nothing to resume"):
        again = ForkedJob(1, "-m", "headsearch", "resume", tmp_path / "run")
        out, err = again.communicate(timeout=300)
        assert again.returncode == 0, err
        assert expected in out
    same(whole("enumerated"), tmp_path / "run")
