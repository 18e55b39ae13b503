"""Verification: solo runs beside a search, and what is made of them."""

from __future__ import annotations

import io
import math
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from matplotlib.text import Text
from scipy import stats
from typer.testing import CliRunner

import headsearch
from headsearch.cli.commands import app
from headsearch.errors import UserError
from headsearch.pretraining import step_file, verification
from headsearch.pretraining.display import shown_verification
from headsearch.pretraining.run import Pretraining
from headsearch.pretraining.setup import prepare_pretraining
from headsearch.pretraining.verification import Progress, Running, Verification
from headsearch.report import advice, verdict, verified_table, write_report
from headsearch.report.columns import signed
from headsearch.report.content import content
from headsearch.report.plots.discrepancy_accuracy import discrepancy_accuracy
from headsearch.report.plots.style import plotting
from headsearch.report.statistics.gains import verified
from headsearch.report.verdict import Verdict, verdict_of
from headsearch.runs.console import HarmlessConsole
from headsearch.runs.run import Run, read_run
from headsearch.runs.tables import SOLO_COLUMNS
from helpers import synthetic_runs
from helpers.forked_program import ForkedProgram
from helpers.search_in_python import searched
from helpers.stepwise import stepwise

pytestmark = pytest.mark.usefixtures("fitted_probes")  # a real process is among the forked ones


@pytest.fixture(scope="module", autouse=True)
def forked() -> Iterator[None]:
    """Solo runs as forks of this process, which spares each the imports."""
    with pytest.MonkeyPatch.context() as patched:
        stand_in = SimpleNamespace(Popen=ForkedProgram, PIPE=subprocess.PIPE)
        patched.setattr(verification, "subprocess", stand_in)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return searched(tmp_path_factory.mktemp("verified") / "run")


def carried_out(verify: Verification) -> list[Progress]:
    seen: list[Progress] = []
    verify.run(seen.append)
    return [progress for progress in seen if progress.ended is not None]


@pytest.fixture(scope="module")
def done(run: Path) -> list[Progress]:
    return carried_out(
        Verification(read_run(run), top=1, seeds=2, controls=False, jobs=2, device="cpu")
    )


def test_every_head_and_none_run_under_every_seed_and_progress_counts_them(
    run: Path, done: list[Progress]
) -> None:
    assert [progress.done for progress in done] == [1, 2, 3, 4]
    assert not any(progress.failure for progress in done)
    solo = read_run(run).solo
    assert list(solo.columns) == list(SOLO_COLUMNS)
    assert set(zip(solo["candidate"], solo["seed"], strict=True)) == {
        (name, seed) for name in ("none", "convnext-d1-k3-noshortcut") for seed in (0, 1)
    }


def test_progress_counts_the_steps_of_runs_that_are_running(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_file, "EVERY_S", 0)
    steps = step_file.StepFile(tmp_path, 40)
    assert step_file.read_step(tmp_path) == (0, 0)
    steps.note(10)
    assert step_file.read_step(tmp_path) == (10, 40)
    solo = Verification(read_run(run), top=1, seeds=2, controls=False, device="cpu").solos[0]
    progress = Progress(None, None, 1, 4, (Running(solo, *step_file.read_step(tmp_path)),), 90.0)
    assert progress.share == (1 + 0.25) / 4
    file = io.StringIO()
    console = HarmlessConsole(
        file=file, force_terminal=True, width=80, color_system=None, _environ={"TERM": "xterm"}
    )
    with shown_verification(console) as observe:
        observe(progress)
    for words in ("1/4 runs done", "1 min 30 s left", "none seed 0 step 10/40"):
        assert words in file.getvalue()
    steps.remove()
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("done")
def test_a_solo_run_is_a_pretraining_with_the_searchs_settings(run: Path, tmp_path: Path) -> None:
    alone = headsearch.pretrain(
        run, head="convnext-d1-k3-noshortcut", seed=1, data_seed=0, out=tmp_path / "alone",
        progress=False,
    )  # fmt: skip
    solo = read_run(run).solo.set_index(["candidate", "seed"])
    row = solo.loc[("convnext-d1-k3-noshortcut", 1)]
    for name in ("base_knn", "base_linear", "choose_knn", "choose_linear"):
        assert row[name] == pytest.approx(alone.scores.iloc[-1][name], abs=1e-6)


@pytest.mark.usefixtures("done")
def test_the_ranking_gets_the_gain_and_the_report_tells_it(run: Path) -> None:
    found = read_run(run)
    solo = found.solo.set_index(["candidate", "seed"])[["base_knn", "base_linear"]].mean(axis=1)
    ranking = found.ranking.set_index("candidate")
    by_hand = (solo["convnext-d1-k3-noshortcut"] - solo["none"]).mean()
    assert ranking.loc["convnext-d1-k3-noshortcut", "gain"] == pytest.approx(by_hand, abs=1e-5)
    assert math.isnan(ranking.loc["own-d1", "gain"])
    write_report(found)
    assert (run / "plots" / "discrepancy_gain.png").is_file()
    for report in ("report.md", "report.html"):
        assert "Verified by solo runs" in (run / report).read_text()


@pytest.mark.usefixtures("done")
def test_what_has_ended_is_not_run_again_and_what_has_not_is(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a process of its own this time, as users have it."""
    monkeypatch.setattr(verification, "subprocess", subprocess)
    folder = run / "solo" / "none-seed1"
    kept = (run / "solo" / "none-seed0" / "pretrain.csv").stat().st_mtime_ns
    before = read_run(run).solo
    (folder / "pretrain.csv").unlink()
    again = carried_out(Verification(read_run(run), top=1, seeds=2, controls=False, device="cpu"))
    assert [str(progress.ended) for progress in again] == ["none seed 1"]
    assert (run / "solo" / "none-seed0" / "pretrain.csv").stat().st_mtime_ns == kept
    pd.testing.assert_frame_equal(read_run(run).solo, before)


@pytest.mark.usefixtures("done")
@pytest.mark.parametrize("spoiled", [False, True], ids=["as it was", "spoiled"])
def test_a_solo_run_that_was_left_goes_on_or_begins_anew(
    spoiled: bool, run: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    verify = Verification(
        read_run(copy), top=1, seeds=1, controls=False, device="cpu", jobs=1, threads=1
    )
    solo = next(solo for solo in verify.solos if solo.candidate == "none")
    expected = solo.scores()
    shutil.rmtree(solo.directory)
    flags = {"seed": 0, "data_seed": 0, "rungs": 1, "threads": 1, "device": "cpu"}
    planned = prepare_pretraining(
        {**flags, "out": str(solo.directory)}, run=read_run(copy), head="none"
    )
    events = stepwise(Pretraining(planned).run)
    while next(events).step == 0:
        pass
    events.close()
    if spoiled:  # gone on with, it would be another run
        config = solo.directory / "config.yaml"
        config.write_text(config.read_text().replace("timm_name: test_vit", "timm_name: other"))
    progress = carried_out(verify)
    assert [(str(each.ended), each.failure) for each in progress] == [("none seed 0", None)]
    assert ("resuming from the last snapshot" in solo.log.read_text()) == (not spoiled)
    # The scores of dense data, which this run has not, are NaN in both.
    assert pd.Series(solo.scores()).equals(pd.Series(expected))


def test_a_run_that_fails_says_why_and_the_others_go_on(
    run: Path, done: list[Progress], tmp_path: Path
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(copy / "solo" / "none-seed1")
    shutil.rmtree(copy / "solo" / "convnext-d1-k3-noshortcut-seed1")
    table = copy / "ranking.csv"
    table.write_text(table.read_text().replace("convnext-d1-k3-noshortcut", "nosuch-d1"))
    failed, ended = sorted(
        carried_out(Verification(read_run(copy), top=1, seeds=1, controls=False)) + done[:1],
        key=lambda progress: progress.failure is None,
    )[:2]
    assert failed.failure is not None
    assert "nosuch" in failed.failure
    assert ended.failure is None


def test_the_command_prints_the_verdict(run: Path, done: list[Progress]) -> None:
    assert done
    result = CliRunner().invoke(
        app, ["verify", str(run), "--top", "1", "--seeds", "2", "--no-controls"]
    )
    assert result.exit_code == 0, result.output
    assert "4 of them ended before" in result.output
    assert "Solo runs of 2 seeds" in result.output


@pytest.mark.usefixtures("done")
def test_the_api_says_the_same(run: Path) -> None:
    found = headsearch.verify(run, top=1, seeds=2, controls=False, progress=False)
    assert "Solo runs of 2 seeds" in str(found.verdict)
    assert len(found.solo) == 4
    assert found.ranking["gain"].notna().sum() == 1
    with pytest.raises(UserError, match="four heads or more"):
        headsearch.calibrate([found])


# what is said -------------------------------------------------------------------------------------


def with_solo(path: Path, effects: dict[str, float], *, seeds: int = 3) -> Run:
    """A run whose heads gain these in every seed, give or take half a point."""
    run = synthetic_runs.run(path)
    families = {"none": "none", "own-d2": "own", "identity": "identity"}
    noise = [-0.005, 0.005, 0.0]
    rows = [
        {
            "candidate": name,
            "family": families.get(name, name.split("-")[0]),
            "seed": seed,
            **dict.fromkeys(SOLO_COLUMNS[3:], 0.4 + 0.03 * seed + gain + noise[(seed + index) % 3]),
        }
        for index, (name, gain) in enumerate(effects.items())
        for seed in range(seeds)
    ]
    return replace(run, solo=pd.DataFrame(rows))


EFFECTS = {"none": 0.0, "own-d2": 0.01, "identity": 0.0, "convnext-d3-k7": 0.08, "mixer-d2": 0.012}


def test_the_verdict_names_what_is_better_and_what_cannot_be_told_apart(tmp_path: Path) -> None:
    found = verified(with_solo(tmp_path, EFFECTS))
    assert found is not None
    said = verdict(found)
    assert "convnext-d3-k7 is better than the control own-d2 (convnext-d3-k7 by +7.0" in said
    assert "mixer-d2 cannot be told apart from the control own-d2" in said
    assert found.order == ("convnext-d3-k7", "mixer-d2")


def test_once_verified_the_advice_is_that_of_the_solo_runs(tmp_path: Path) -> None:
    def said(effects: dict[str, float], seeds: int = 3) -> str:
        return advice(with_solo(tmp_path, effects, seeds=seeds))

    assert "take this head" in advice(synthetic_runs.run(tmp_path))
    assert said(EFFECTS).startswith("convnext-d3-k7: take this head, because it gains the base +8.")
    assert "over the control own-d2" in said(EFFECTS)
    as_good_as_own = {**EFFECTS, "own-d2": 0.08}
    assert "not shown to help more than the control own-d2" in said(as_good_as_own)
    useless = {**EFFECTS, "convnext-d3-k7": 0.001, "mixer-d2": 0.001, "own-d2": 0.001}
    assert said(useless).startswith("No head is recommended, because none is shown to help")
    assert "which may be chance" in said(EFFECTS, seeds=1)
    without_control = {name: gain for name, gain in EFFECTS.items() if name in ("none", "mixer-d2")}
    assert said({**without_control, "mixer-d2": 0.08}).startswith("mixer-d2: take this head")


def test_the_report_sets_what_was_predicted_beside_what_was_measured(tmp_path: Path) -> None:
    # in the search: convnext-d3-k7-noshortcut, then swin-d2-w4, …, mixer-d2-r4
    heads = {"none": 0.0, "mixer-d2-r4": 0.03, "convnext-d3-k7-noshortcut": 0.01, "swin-d2-w4": 0.0}
    run = with_solo(tmp_path, heads)
    ranks = run.ranking.set_index("candidate")["rank"]
    first = ranks[[name for name in heads if name != "none"]].idxmin()
    trust = "\n".join(content(run).trust)
    place = {"mixer-d2-r4": "1st", "convnext-d3-k7-noshortcut": "2nd", "swin-d2-w4": "3rd"}[first]
    assert f"of the 3 verified heads, the search's first, {first}, comes {place} by gain" in trust
    predicted = [-ranks[name] for name in list(heads)[1:]]
    tau = stats.kendalltau(predicted, [3, 2, 1]).statistic
    assert f"Kendall's τ = {signed(tau)}" in trust


def test_the_plot_names_verified_heads_with_their_gain(tmp_path: Path) -> None:
    run = synthetic_runs.run(tmp_path)
    measured = run.ranking["candidate"] == "attention-d2"
    ranking = run.ranking.assign(gain=float("nan"), gain_low=float("nan"), gain_high=float("nan"))
    ranking.loc[measured, ["gain", "gain_low", "gain_high"]] = (0.021, 0.01, 0.03)
    with plotting():
        figure = discrepancy_accuracy(replace(run, ranking=ranking))
    words = [text.get_text() for text in figure.findobj(Text)]
    assert "attention-d2 (+2.1 points)" in words


def test_one_seed_claims_nothing(tmp_path: Path) -> None:
    found = verified(with_solo(tmp_path, EFFECTS, seeds=1))
    assert found is not None
    assert "without a second seed" in verdict(found)


def test_one_seed_in_which_all_bases_are_alike_has_no_gain(tmp_path: Path) -> None:
    run = with_solo(tmp_path, EFFECTS, seeds=1)
    columns = ["base_knn", "base_linear", "choose_knn", "choose_linear"]
    same = replace(run, solo=run.solo.assign(**dict.fromkeys(columns, 1.0)))
    found = verified(same)
    assert found is not None
    assert "no head gains" in verdict(found)
    assert verdict_of(same, found) is Verdict.VERIFIED_NONE


def test_the_order_comes_from_the_labels_that_may_choose(tmp_path: Path) -> None:
    run = with_solo(tmp_path, EFFECTS)
    table = run.solo.copy()
    chosen = table["candidate"] == "mixer-d2"
    table.loc[chosen, ["choose_knn", "choose_linear"]] += 0.2
    found = verified(replace(run, solo=table))
    assert found is not None
    assert found.order[0] == "mixer-d2"
    assert found.over_none["convnext-d3-k7"].value > found.over_none["mixer-d2"].value


def test_the_table_holds_heads_by_gain_then_controls(tmp_path: Path) -> None:
    table = verified_table(with_solo(tmp_path, EFFECTS))
    assert table is not None
    assert [row[1] for row in table.rows] == [
        "convnext-d3-k7", "mixer-d2", "own-d2", "identity", "none",
    ]  # fmt: skip


def test_without_solo_runs_there_is_no_verdict(tmp_path: Path) -> None:
    run = synthetic_runs.run(tmp_path)
    assert verified(run) is None
    assert verified_table(run) is None


def test_what_cannot_be_verified_says_why(run: Path, tmp_path: Path) -> None:
    found = read_run(run)
    with pytest.raises(UserError, match="given in Python"):
        Verification(replace(found, config={**found.config, "given": ["base"]}))
    with pytest.raises(UserError, match="no labels"):
        Verification(replace(found, facts={**found.facts, "labelled": False}))
    with pytest.raises(UserError, match="no head"):
        Verification(replace(found, ranking=found.ranking.iloc[:0]))
    with pytest.raises(UserError, match="no such run"):
        read_run(tmp_path / "nowhere")
