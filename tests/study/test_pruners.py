"""Pruners and samplers: the best of a cohort stay in any order of calls; cohorts are filled."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import Trial, TrialState

from headsearch.errors import UserError
from headsearch.study.pruners import PRUNERS, GuardedPruner, RungPruner, make_pruner
from headsearch.study.samplers import SAMPLERS, make_sampler

optuna.logging.set_verbosity(optuna.logging.WARNING)


def new_study(pruner: BasePruner, direction: str = "maximize", storage: str | None = None) -> Study:
    return optuna.create_study(
        direction=direction,
        pruner=pruner,
        storage=storage,
        study_name="a study",
        sampler=optuna.samplers.RandomSampler(seed=0),
    )


def enter(study: Study, count: int, cohort: int = 0, controls: Sequence[int] = ()) -> list[Trial]:
    """Starts the trials of one cohort; `controls` are indices of the trials that are controls."""
    trials = [study.ask() for _ in range(count)]
    for i, trial in enumerate(trials):
        trial.set_user_attr("cohort", cohort)
        trial.set_user_attr("control", i in controls)
    return trials


def report(trials: Sequence[Trial], scores: Sequence[float], step: int) -> None:
    for trial, score in zip(trials, scores, strict=True):
        trial.report(score, step)


def kept(trials: Sequence[Trial]) -> list[int]:
    """The indices of the trials that stay; all are asked before any is told to stop."""
    return [i for i, trial in enumerate(trials) if not trial.should_prune()]


# --- the rung pruner ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("direction", "scores", "eta", "min_keep", "want"),
    [
        ("maximize", [1, 5, 3, 4, 2, 6, 0, 7], 2.0, 1, [1, 3, 5, 7]),
        ("minimize", [1, 5, 3, 4, 2, 6, 0, 7], 2.0, 1, [0, 2, 4, 6]),
        ("maximize", [1, 5, 3, 4, 2], 2.0, 1, [1, 2, 3]),  # half of five, rounded up
        ("maximize", [1, 5, 3, 4], 2.0, 3, [1, 2, 3]),  # no fewer than three
        ("maximize", [1, 5], 2.0, 3, [0, 1]),
        ("maximize", list(range(21)), 1.4, 1, list(range(6, 21))),  # 21 / 1.4 is 15, not 16
        ("maximize", [1, 5, 3], 1.0, 1, [0, 1, 2]),
        ("maximize", [2, 2, 2, 2], 2.0, 1, [0, 1]),  # ties go to the lower trial number
        ("maximize", [math.nan, 1, math.nan, 0], 2.0, 1, [1, 3]),
        ("minimize", [math.nan, 1, math.nan, 0], 2.0, 1, [1, 3]),
        ("maximize", [math.nan, -math.inf, 3, math.inf], 1.3, 1, [0, 1, 2, 3]),
        ("maximize", [math.nan, -math.inf, 3, math.inf], 1.5, 1, [1, 2, 3]),
    ],
)
def test_the_best_share_stays(
    direction: str, scores: list[float], eta: float, min_keep: int, want: list[int]
) -> None:
    trials = enter(new_study(RungPruner(eta, min_keep), direction), len(scores))
    report(trials, scores, 1)
    assert kept(trials) == want


def test_rung_0_prunes_nothing_nor_does_a_trial_without_a_report() -> None:
    trials = enter(new_study(RungPruner(4.0, 1)), 8)
    assert kept(trials) == list(range(8))
    report(trials, range(8), 0)
    assert kept(trials) == list(range(8))


def test_controls_stay_and_take_no_candidates_place() -> None:
    trials = enter(new_study(RungPruner(2.0, 1)), 6, controls=(0, 5))
    report(trials, [9, 1, 2, 3, 4, 0], 1)  # one control best, one worst
    assert kept(trials) == [0, 3, 4, 5]


def test_cohorts_are_judged_apart() -> None:
    study = new_study(RungPruner(2.0, 1))
    first, second = enter(study, 4, cohort=0), enter(study, 4, cohort=1)
    report(first, [10, 11, 12, 13], 1)
    report(second, [0, 1, 2, 3], 1)
    assert kept(first) == [2, 3]
    assert kept(second) == [2, 3]


def test_failed_heads_are_not_counted_among_the_kept() -> None:
    study = new_study(RungPruner(2.0, 1))
    trials = enter(study, 6)
    report(trials, [9, 8, 3, 2, 1, 0], 1)
    for trial in trials[:2]:  # a collapsed head has a high score
        study.tell(trial, state=TrialState.FAIL)
    assert kept(trials[2:]) == [0, 1]


def test_later_rungs_judge_by_their_own_reports_of_who_is_left() -> None:
    study = new_study(RungPruner(2.0, 1))
    trials = enter(study, 8)
    report(trials, range(8), 1)
    for trial in trials[:4]:
        study.tell(trial, state=TrialState.PRUNED)
    report(trials[4:], [3, 2, 1, 0], 2)
    assert kept(trials[4:]) == [0, 1]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_order_of_reports_and_prune_calls_does_not_matter(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 9), "candidates")
    score = st.sampled_from([0.0, 0.5, 1.0, -2.0, math.nan, math.inf])
    scores = data.draw(st.lists(score, min_size=n, max_size=n), "scores")
    controls = data.draw(st.sets(st.integers(0, n - 1)), "controls")
    eta = data.draw(st.sampled_from([1.0, 1.5, 2.0, 3.0]), "eta")
    min_keep = data.draw(st.integers(1, 4), "min_keep")
    direction = data.draw(st.sampled_from(["maximize", "minimize"]), "direction")

    def survivors(reports: list[int], questions: list[int], tell_at_once: bool) -> set[int]:
        study = new_study(RungPruner(eta, min_keep), direction)
        trials = enter(study, n, controls=tuple(controls))
        for i in reports:
            trials[i].report(scores[i], 1)
        stay = set()
        for i in questions:
            if not trials[i].should_prune():
                stay.add(i)
            elif tell_at_once:
                study.tell(trials[i], state=TrialState.PRUNED)
        return stay

    in_order = list(range(n))
    want = survivors(in_order, in_order, False)
    order = st.permutations(in_order)
    got = survivors(
        data.draw(order, "reports"), data.draw(order, "questions"), data.draw(st.booleans())
    )
    assert got == want
    candidates = n - len(controls)
    assert controls <= want
    assert len(want - controls) == min(candidates, max(min_keep, math.ceil(candidates / eta)))


def test_a_study_read_back_from_sqlite_decides_the_same(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    trials = enter(new_study(RungPruner(), storage=storage), 9, controls=(4,))
    report(trials, [3, 1, math.nan, 7, 0, 5, 5, 2, math.inf], 1)
    want = kept(trials)
    assert want == [3, 4, 5, 6, 8]
    again = optuna.load_study(study_name="a study", storage=storage, pruner=RungPruner())
    assert [t.number for t in again.trials if not again.pruner.prune(again, t)] == want
    for i in set(range(9)) - set(want):
        again.tell(i, state=TrialState.PRUNED)
    assert [i for i in want if not again.pruner.prune(again, again.trials[i])] == want


@pytest.mark.parametrize("eta", [0.5, 0.0, math.nan, math.inf])
def test_eta_out_of_range_is_refused_with_its_value(eta: float) -> None:
    with pytest.raises(ValueError, match=f"but got {eta=}"):
        RungPruner(eta)


def test_keeping_none_is_refused() -> None:
    for make in (
        lambda: RungPruner(min_keep=0),
        lambda: GuardedPruner(optuna.pruners.NopPruner(), 0),
    ):
        with pytest.raises(ValueError, match="but got min_keep=0"):
            make()


# --- what every pruner must do --------------------------------------------------------------------


@pytest.mark.parametrize("name", PRUNERS)
def test_no_pruner_touches_rung_0_controls_or_the_best(name: str) -> None:
    study = new_study(make_pruner(name, eta=2.0, min_keep=3, rungs=4))
    for cohort in range(3):
        trials = enter(study, 10, cohort=cohort, controls=(0, 1))
        scores = [-5.0, -6.0, *range(8, 0, -1)] if cohort % 2 else [-5.0, -6.0, *range(1, 9)]
        best = set(sorted(range(10), key=lambda i: -scores[i])[:3])
        live = list(range(10))
        for step in range(5):
            for i in live:
                trials[i].report(scores[i] - cohort, step)  # later cohorts do worse
            if step < 4:
                stay = [live[j] for j in kept([trials[i] for i in live])]
                assert step > 0 or stay == live
                assert best | {0, 1} <= set(stay)
                for i in set(live) - set(stay):
                    study.tell(trials[i], state=TrialState.PRUNED)
                live = stay
        for i in live:
            study.tell(trials[i], scores[i])


def count_pruned(study: Study, cohort: int, scores: Sequence[float]) -> int:
    """Runs one cohort through rungs 0 and 1; how many of its trials are pruned."""
    trials = enter(study, len(scores), cohort=cohort)
    report(trials, scores, 0)
    report(trials, scores, 1)
    stay = kept(trials)
    for i, trial in enumerate(trials):
        if i in stay:
            study.tell(trial, scores[i])
        else:
            study.tell(trial, state=TrialState.PRUNED)
    return len(scores) - len(stay)


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("rung", 5, 5),
        ("none", 0, 0),
        ("median", 0, 5),
        ("percentile", 0, 5),
        ("successive-halving", None, None),  # asynchronous: the number depends on the order
        ("hyperband", None, None),
    ],
)
def test_pruners_work_when_their_help_says(
    name: str, first: int | None, second: int | None
) -> None:
    study = new_study(make_pruner(name, eta=2.0, min_keep=3, rungs=4))
    scores = list(range(10, 0, -1))
    for cohort, want in enumerate((first, second)):
        got = count_pruned(study, cohort, scores)
        if want is None:
            assert got > 0
        else:
            assert got == want


def test_bare_successive_halving_would_prune_a_whole_cohort() -> None:
    """The reason for `GuardedPruner`."""
    for guarded in (False, True):
        inner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
        study = new_study(GuardedPruner(inner, 3) if guarded else inner)
        count_pruned(study, 0, range(100, 92, -1))
        assert count_pruned(study, 1, range(8)) == (5 if guarded else 8)


def test_unknown_and_out_of_range_choices_are_named() -> None:
    with pytest.raises(UserError, match="unknown pruner 'halving'"):
        make_pruner("halving", eta=2.0, min_keep=3, rungs=4)
    with pytest.raises(ValueError, match=r"but got eta=0\.5"):
        make_pruner("median", eta=0.5, min_keep=3, rungs=4)
    with pytest.raises(ValueError, match="but got rungs=0"):
        make_pruner("hyperband", eta=2.0, min_keep=3, rungs=0)
    with pytest.raises(UserError, match="did you mean 'random'"):
        make_sampler("randon", 0)


# --- what every sampler must do -------------------------------------------------------------------


def suggest(trial: Trial) -> tuple[object, ...]:
    family = trial.suggest_categorical("family", ["convnext", "attention", "mlp", "pool"])
    depth = trial.suggest_int("depth", 1, 4)
    if family == "convnext":
        kernel = trial.suggest_categorical("convnext.kernel", [3, 5, 7])
        return family, depth, kernel, trial.suggest_categorical("convnext.shortcut", [True, False])
    if family == "mlp":
        return family, depth, trial.suggest_float("mlp.ratio", 0.5, 4.0)
    return family, depth


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_fill_whole_cohorts_of_a_conditional_space(name: str) -> None:
    def cohorts() -> list[list[tuple[object, ...]]]:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # no warning may reach the user
            study = optuna.create_study(direction="maximize", sampler=make_sampler(name, 3))
            drawn = []
            for _ in range(3):
                trials = [study.ask() for _ in range(12)]  # all before any is told
                drawn.append([suggest(trial) for trial in trials])
                for trial, (family, depth, *_) in zip(trials, drawn[-1], strict=True):
                    study.tell(trial, float(family == "convnext") + 0.1 * float(str(depth)))
        return drawn

    drawn = cohorts()
    assert all(len(set(cohort)) >= 8 for cohort in drawn)
    assert drawn == cohorts()  # the seed decides
