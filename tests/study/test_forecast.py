"""`headsearch run --dry-run`: what a search will do, and the time and memory it will take."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from headsearch.cli.forecast_view import forecast_words
from headsearch.runs.run import read_run
from headsearch.study.profiling import costs, step_profiler
from headsearch.study.profiling.costs import HeadCost, measure_costs
from headsearch.study.profiling.forecast import forecast_with
from headsearch.study.profiling.step_profiler import Size, StepProfiler
from headsearch.study.search import Search
from helpers.command_line import in_process
from helpers.made_up_costs import MB, SPACE, TINY, foresee, made_up, tiny
from helpers.stepwise import stepwise

optuna.logging.set_verbosity(optuna.logging.WARNING)

WIDE = "families: {mixer: {depth: {low: 1, high: 3}, mlp_ratio: {low: 1.0, high: 4.0}}}"
"""A space of more points than a search can enumerate, which is sampled therefore."""


def test_the_search_then_does_what_was_forecast(tmp_path: Path) -> None:
    prepared = tiny(tmp_path, cohort=4, out=tmp_path / "run")
    found = foresee(prepared)
    search = Search(prepared)
    search.run()
    run = read_run(search.run_directory)
    done = run.ranking.groupby("cohort")["candidate"].agg(set)
    assert [{head.name for head in cohort} for cohort in found.cohorts] == list(done)
    assert found.sizes == [4, 3]
    first = run.rungs[run.rungs["cohort"] == 0].groupby("rung")
    assert [rung.step for rung in found.rungs] == list(first["step"].first())
    heads = list(first["candidate"].nunique())
    assert [rung.heads for rung in found.rungs] == [4, 4, 3, 2]
    assert heads[:2] == [4, 4]
    assert all(
        live <= rung.heads for live, rung in zip(heads, found.rungs, strict=False)
    )  # fewer where a head collapsed


def test_the_first_cohort_of_a_sampled_space_is_known(tmp_path: Path) -> None:
    prepared = tiny(tmp_path, WIDE, trials=8, cohort=4, out=tmp_path / "run")
    found = foresee(prepared)
    assert len(found.cohorts) == 1
    assert found.sizes == [4, 4]
    with closing(stepwise(Search(prepared).run)) as events:
        asked = list(next(events).leaderboard.entries)
    assert [head.name for head in found.cohorts[0]] == asked
    assert any("4 candidates in 1 more cohort, sampled by tpe" in line
               for line in forecast_words(found, prepared))  # fmt: skip


def test_the_time_is_the_sum_of_the_parts(tmp_path: Path) -> None:
    """Six steps, two toward each of three rungs; seven heads of 2 s, one of them a control."""
    found = foresee(tiny(tmp_path))
    entering = 7 * 2  # each head is timed as it enters, once where it takes long
    assert [rung.heads for rung in found.rungs] == [7, 7, 4, 3]
    assert [rung.seconds for rung in found.rungs] == [
        entering + (5 + 7),
        2 * (1 + 10 + 7 * 2) + (5 + 7),
        2 * (1 + 10 + 4 * 2) + (5 + 4),
        2 * (1 + 10 + 3 * 2) + (5 + 3),
    ]
    assert found.seconds == found.least == found.most == sum(r.seconds for r in found.rungs)
    assert found.base_alone == 6 * 11 + 4 * 5
    assert found.one_by_one == 7 * (6 * 13 + 4 * 6)


def test_a_snapshot_is_written_at_each_rung(tmp_path: Path) -> None:
    """At a second for each million parameters: three numbers of four bytes a parameter."""
    plain, written = (foresee(tiny(tmp_path), write_byte=s) for s in (0.0, 1 / (12 * MB)))
    more = [w.seconds - p.seconds for w, p in zip(written.rungs, plain.rungs, strict=True)]
    assert more == pytest.approx([1 + 7, 1 + 7, 1 + 4, 1 + 3])
    # a solo run ends with its last rung of three, and writes no snapshot there
    assert written.base_alone - plain.base_alone == pytest.approx(3)
    assert written.one_by_one - plain.one_by_one == pytest.approx(7 * 3 * 2)


def test_fast_heads_are_timed_more_than_once_as_they_enter(tmp_path: Path) -> None:
    fast = foresee(tiny(tmp_path), dict.fromkeys(("mixer-d1", "identity"), 0.01))
    medium = foresee(tiny(tmp_path), dict.fromkeys(("mixer-d1", "identity"), 0.06))
    heads = 5 * 2 + (5 + 7)
    assert fast.rungs[0].seconds == pytest.approx(heads + 2 * 3 * 0.01)
    assert medium.rungs[0].seconds == pytest.approx(heads + 2 * 0.1)


def test_the_range_of_time_comes_from_which_heads_stay(tmp_path: Path) -> None:
    costly = foresee(tiny(tmp_path), {"mixer-d1": 8.0})
    mean = (5 * 2 + 8) / 6
    # two steps each toward rungs 2 and 3, with three and two of the six
    assert costly.seconds - costly.least == pytest.approx(2 * (3 + 2) * (mean - 2))
    assert costly.most - costly.least == pytest.approx(2 * 2 * (8 - 2))


def test_seeds_multiply_the_time_and_optunas_own_pruners_give_a_range(tmp_path: Path) -> None:
    kept = foresee(tiny(tmp_path, pruner="none"))
    assert [rung.heads for rung in kept.rungs] == [7, 7, 7, 7]
    twice = foresee(tiny(tmp_path, pruner="none", seeds=2))
    entering = 7 * 2
    assert twice.seconds - entering == 2 * (kept.seconds - entering)
    optunas = foresee(tiny(tmp_path, pruner="median"))
    assert not optunas.sure
    assert optunas.most == kept.seconds
    # from rung 1 on, one contestant and the control may be all that is left
    assert kept.seconds - optunas.least == 2 * 2 * (5 * 2) + 2 * 5


def test_memory_is_the_larger_of_training_and_of_a_snapshot(tmp_path: Path) -> None:
    prepared = tiny(tmp_path)
    found = foresee(prepared)
    params = 8 * MB  # the base's and seven heads'
    kept = 100 * MB + 7 * 10 * MB
    # four bytes each: weight, two moments and gradient, and the teacher's
    assert found.memory == 1000 * MB + 4 * 4 * params + kept
    with_teacher = tiny(tmp_path, objective="byol")
    assert foresee(with_teacher).memory == 1000 * MB + 4 * 5 * params + kept
    # While a snapshot is written, all state is held twice; here that is more than activations.
    cohorts = prepared.known_cohorts()
    frugal = made_up(cohorts, {}, base_size=Size(MB, 0))
    frugal = replace(frugal, heads={name: HeadCost(2.0, Size(MB, 0)) for name in frugal.heads})
    assert forecast_with(prepared, cohorts, frugal).memory == 1000 * MB + 4 * 6 * params


def test_a_cohort_that_may_not_fit_is_reported_with_the_size_that_would(tmp_path: Path) -> None:
    prepared = tiny(tmp_path)
    roomy = foresee(prepared, free=1000 * MB)
    assert roomy.fitting is None
    tight = foresee(prepared, free=200 * MB)
    # the base takes 116 MB, and each head 26 MB
    assert tight.fitting == 3
    assert "that may not fit into memory: try --cohort 3" in forecast_words(tight, prepared)


def test_costs_of_heads_that_are_not_measured_are_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_profiler, "AT_LEAST_S", 1e-9)
    monkeypatch.setattr(costs, "HEADS_S", 0.0)
    prepared = tiny(tmp_path)
    (heads,) = prepared.known_cohorts()
    found = measure_costs(prepared, heads)
    assert found.measured == 2
    assert found.heads.keys() == {head.name for head in heads}
    assert all(cost.seconds > 0 and cost.size.kept > 0 for cost in found.heads.values())
    profiler = StepProfiler(prepared.training)
    for head in heads:
        assert found.heads[head.name].size.params == pytest.approx(profiler.size_of(head).params)


def test_kept_activations_grow_with_the_batch(tmp_path: Path) -> None:
    small, large = (StepProfiler(tiny(tmp_path, batch_size=size).training) for size in (8, 16))
    assert large.size_of_base().params == small.size_of_base().params
    ratio = large.size_of_base().kept / small.size_of_base().kept
    assert ratio == pytest.approx(2, rel=0.05)


def test_a_dry_run_prints_the_forecast_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_profiler, "AT_LEAST_S", 1e-9)
    (tmp_path / "space.yaml").write_text(SPACE)
    monkeypatch.chdir(tmp_path)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    code, out, err = in_process(
        capsys, monkeypatch, "run", *flags, "--space", "space.yaml", "--out", "run", "--dry-run"
    )
    assert code == 0, err
    assert [path.name for path in tmp_path.iterdir()] == ["space.yaml"]
    starts = [line.split()[0] for line in out.splitlines() if line.split()]
    for name in ("identity", "mixer-d1", "convnext-d1-k3-noshortcut", "time:", "memory:"):
        assert name in starts
    assert "a dry run: nothing is written" in out
