"""The verdict on a run: a table of cases, and what a reader is told in those that went wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headsearch.report.advice import advice
from headsearch.report.caveats import trust
from headsearch.report.columns import with_error
from headsearch.report.verdict import (
    SearchFacts,
    SoloFacts,
    Verdict,
    decide,
    decide_verified,
    search_facts,
    verdict_of,
)
from helpers import synthetic_runs

CLEAR = SearchFacts(
    last_rung=4,
    candidates=12,
    healthy=True,
    labelled=True,
    base_learnt=True,
    accuracies=(0.42, 0.40, 0.35),
    first_is_control=False,
    heads=2,
    controls=1,
    ahead_of_controls=True,
)
"""A search that allows a recommendation; each case changes something."""

CASES: list[tuple[str, dict[str, Any], Verdict]] = [
    ("nothing speaks against it", {}, Verdict.TAKE),
    ("at the first rung already", {"last_rung": 1}, Verdict.TAKE),
    ("many heads", {"heads": 30}, Verdict.TAKE),
    ("two controls, ahead of both", {"controls": 2}, Verdict.TAKE),
    ("one head at 100 %", {"accuracies": (1.0, 0.9)}, Verdict.TAKE),
    ("one head at 0 %", {"accuracies": (0.4, 0.0)}, Verdict.TAKE),
    ("nothing scored", {"last_rung": None}, Verdict.NOT_SCORED),
    ("nothing scored, no table", {"last_rung": None, "candidates": 0}, Verdict.NOT_SCORED),
    ("nothing scored, no labels", {"last_rung": None, "labelled": False}, Verdict.NOT_SCORED),
    ("the table is lost", {"candidates": 0, "healthy": False}, Verdict.NO_TABLE),
    ("all collapsed", {"healthy": False}, Verdict.NONE_HEALTHY),
    ("all collapsed, no labels", {"healthy": False, "labelled": False}, Verdict.NONE_HEALTHY),
    ("untrained alone", {"last_rung": 0}, Verdict.UNTRAINED),
    ("untrained, no labels", {"last_rung": 0, "labelled": False}, Verdict.UNTRAINED),
    ("untrained, control first", {"last_rung": 0, "first_is_control": True}, Verdict.UNTRAINED),
    ("no labels", {"labelled": False, "base_learnt": None}, Verdict.NO_ACCURACY),
    ("no labels, clearly ahead", {"labelled": False}, Verdict.NO_ACCURACY),
    ("no labels, one head", {"labelled": False, "heads": 1}, Verdict.NO_ACCURACY),
    ("no labels, control first", {"labelled": False, "first_is_control": True},
     Verdict.CONTROL_FIRST),
    ("one accuracy unknown", {"accuracies": (1.0, float("nan"))}, Verdict.TAKE),
    ("no labels, no control", {"labelled": False, "controls": 0}, Verdict.NO_ACCURACY),
    ("all at 100 %", {"accuracies": (1.0, 1.0, 0.996)}, Verdict.SATURATED),
    ("all at 0 %", {"accuracies": (0.0, 0.004)}, Verdict.SATURATED),
    ("all at 100 %, control first", {"accuracies": (1.0, 1.0), "first_is_control": True},
     Verdict.SATURATED),
    ("all at 100 %, base unknown", {"accuracies": (1.0,), "base_learnt": None}, Verdict.SATURATED),
    ("control first", {"first_is_control": True}, Verdict.CONTROL_FIRST),
    ("control first, base untrained", {"first_is_control": True, "base_learnt": False},
     Verdict.CONTROL_FIRST),
    ("only controls left", {"first_is_control": True, "heads": 0}, Verdict.CONTROL_FIRST),
    ("base not better", {"base_learnt": False}, Verdict.BASE_NOT_BETTER),
    ("base not better, alike", {"base_learnt": False, "ahead_of_controls": False},
     Verdict.BASE_NOT_BETTER),
    ("base not better, no control", {"base_learnt": False, "controls": 0},
     Verdict.BASE_NOT_BETTER),
    ("as good as a control", {"ahead_of_controls": False}, Verdict.LIKE_CONTROL),
    ("as good as a control, one head", {"ahead_of_controls": False, "heads": 1},
     Verdict.LIKE_CONTROL),
    ("as good, base unknown", {"ahead_of_controls": False, "base_learnt": None},
     Verdict.LIKE_CONTROL),
    ("no control", {"controls": 0}, Verdict.NO_CONTROL),
    ("no control and no rival", {"controls": 0, "heads": 1}, Verdict.NO_CONTROL),
    ("no rival", {"heads": 1}, Verdict.NO_RIVAL),
    ("no rival, base unknown", {"heads": 1, "base_learnt": None}, Verdict.NO_RIVAL),
    ("base unknown", {"base_learnt": None}, Verdict.LEARNING_UNKNOWN),
]  # fmt: skip

SOLO_CASES: list[tuple[str, SoloFacts, Verdict]] = [
    ("helps, and more than own", SoloFacts(0.02, 3, True, True), Verdict.VERIFIED_TAKE),
    ("helps, no control ran", SoloFacts(0.02, 3, True, None), Verdict.VERIFIED_TAKE),
    ("helps as own does", SoloFacts(0.02, 3, True, False), Verdict.VERIFIED_LIKE_OWN),
    ("not shown to help", SoloFacts(0.002, 3, False, False), Verdict.VERIFIED_NONE),
    ("better than own, not than none", SoloFacts(0.002, 3, False, True), Verdict.VERIFIED_NONE),
    ("harms", SoloFacts(-0.02, 3, False, False), Verdict.VERIFIED_NONE),
    ("one seed, gains", SoloFacts(0.02, 1, False, None), Verdict.VERIFIED_ONE_SEED),
    ("one seed, loses", SoloFacts(-0.008, 1, False, None), Verdict.VERIFIED_NONE),
    ("one seed, neither", SoloFacts(0.0, 1, False, False), Verdict.VERIFIED_NONE),
]


@pytest.mark.parametrize(("changes", "verdict"), [case[1:] for case in CASES],
                         ids=[case[0] for case in CASES])  # fmt: skip
def test_the_verdict_on_a_search(changes: dict[str, Any], verdict: Verdict) -> None:
    assert decide(replace(CLEAR, **changes)) is verdict


@pytest.mark.parametrize(("facts", "verdict"), [case[1:] for case in SOLO_CASES],
                         ids=[case[0] for case in SOLO_CASES])  # fmt: skip
def test_the_verdict_on_solo_runs(facts: SoloFacts, verdict: Verdict) -> None:
    assert decide_verified(facts) is verdict


def test_every_verdict_is_in_the_table() -> None:
    assert {case[2] for case in (*CASES, *SOLO_CASES)} == set(Verdict)


def test_a_head_is_taken_only_where_nothing_speaks_against_it() -> None:
    taken = [changes for _, changes, verdict in CASES if verdict is Verdict.TAKE]
    for name in ("labelled", "healthy", "base_learnt", "ahead_of_controls"):
        assert all(getattr(replace(CLEAR, **changes), name) is True for changes in taken)


def heads(**accuracies: float) -> dict[str, tuple[str, float, float]]:
    """Heads of a made-up run, by k-NN accuracy; those named as a control are of its family."""
    families = {"identity": "identity", "own": "own"}
    return {
        name.replace("_", "-"): (families.get(name, name.partition("_")[0]), 0.1, value)
        for name, value in accuracies.items()
    }


def said(tmp_path: Path, *, by: str = "accuracy", **changes: Any) -> str:
    return advice(synthetic_runs.run(tmp_path, config_changes={"rank_by": by}, **changes))


def test_a_head_like_a_control_is_not_worth_taking_yet(tmp_path: Path) -> None:
    text = said(tmp_path, heads=heads(mixer_d2=0.40, identity=0.39))
    assert text.startswith("No head is worth taking yet, because the first, mixer-d2 (")
    assert "cannot be told apart from the control identity" in text
    assert "take this head" not in text


def test_a_head_clear_of_every_control_is_taken_and_its_labels_are_named(tmp_path: Path) -> None:
    text = said(tmp_path, heads=heads(mixer_d2=0.50, swin_d2=0.48, identity=0.30))
    assert text.startswith("mixer-d2: take this head, because among the 3 heads at the same rung")
    # Choosing and reporting labels differ, so another head can have a higher figure in the table.
    assert "the most accurate on the labels that choose" in text
    assert "k-NN 50.0 ± 4.0% on the reporting labels" in text
    assert "it is ahead of every control; it cannot be told apart from swin-d2" in text


def test_a_ranking_without_labels_is_a_hint_and_says_what_would_settle_it(tmp_path: Path) -> None:
    text = said(tmp_path, by="discrepancy", labelled=False)
    assert ": a hint at most, because it differs most from the base" in text
    assert "labelled --eval-data would settle it" in text
    assert "take this head" not in text


def test_a_control_is_not_called_ahead_of_what_ties_with_it(tmp_path: Path) -> None:
    text = said(tmp_path, heads=heads(identity=0.41, mixer_d2=0.40))
    assert "because the control identity ranks first" in text
    assert text.endswith("cannot be told apart from it.")
    behind = said(tmp_path, heads=heads(identity=0.50, mixer_d2=0.30))
    assert behind.endswith("is behind it.")
    assert "ahead" not in text + behind


def test_saturated_accuracies_recommend_nothing_and_are_warned_about(tmp_path: Path) -> None:
    run = synthetic_runs.run(tmp_path, heads=heads(identity=1.0, mixer_d2=1.0),
                             config_changes={"rank_by": "accuracy"})  # fmt: skip
    assert verdict_of(run, None) is Verdict.SATURATED
    assert "the same accuracy on the reporting labels (100.0% (99.4 to 100.0))" in advice(run)
    assert any("too easy or too hard" in sentence for sentence in trust(run))


@pytest.mark.parametrize(
    ("accuracy", "images", "text"),
    [
        (1.0, 64, "100.0% (94.3 to 100.0)"),
        (0.0, 64, "0.0% (0.0 to 5.7)"),
        (0.98, 100, "98.0% (93.0 to 99.4)"),
        (0.381, 600, "38.1 ± 3.9%"),
        (0.5, 5000, "50.0 ± 1.4%"),
        (0.381, None, "38.1%"),
    ],
)
def test_intervals_of_accuracies_stay_within_their_range(
    accuracy: float, images: int | None, text: str
) -> None:
    assert with_error(accuracy, images) == text


def test_the_facts_are_those_of_the_heads_at_the_rung_of_the_first(tmp_path: Path) -> None:
    facts = search_facts(synthetic_runs.run(tmp_path))
    assert (facts.last_rung, facts.candidates, facts.healthy) == (4, 12, True)
    assert facts.heads + facts.controls == len(facts.accuracies) == 5
    assert facts.controls == 2
    assert facts.base_learnt is True
