"""The simulated fleet of docs/scaling.md, small: whatever goes wrong, every cohort counts once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("greenlet")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from simulated_fleet import TASK_S, Faults, Fleet, simulate

from headsearch.cluster.engine.claims import Claim, Rules

HARSH = Faults(
    dies=3 * TASK_S, preempted=4 * TASK_S, freezes=2 * TASK_S, slow=0.2,
    away=((0.5 * TASK_S, 60.0), (TASK_S, 300.0), (2 * TASK_S, 600.0)),
)  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_whatever_goes_wrong_every_cohort_counts_once(seed: int) -> None:
    fleet = Fleet(12, 60, HARSH, rules=Rules(attempts=30), seed=seed)
    fleet.run()
    fleet.check()
    assert len(fleet.committed) == 60
    assert fleet.news["deaths"] > 5
    assert fleet.news["preemptions"] > 5
    assert fleet.news["results thrown away"] > 0
    assert fleet.news["workers that gave up on the database"] > 0
    assert fleet.worked > sum(fleet.seconds.values())


def test_a_cohort_that_fails_as_often_as_it_may_is_given_up_and_the_rest_goes_on() -> None:
    fleet = Fleet(12, 60, HARSH, rules=Rules(attempts=1), seed=0)
    fleet.run()
    fleet.check()
    assert 0 < len(fleet.committed) < 60


def test_without_faults_nothing_is_done_twice() -> None:
    row, calls = simulate("nothing", 8, 40, rules=Rules())
    assert row["committed"] == 40
    assert row["rerun_share"] < 1e-3
    assert 1 <= row["makespan_over_ideal"] < 1.2
    kinds = {call["call"]: call["count"] for call in calls}
    assert kinds["beat"] > 40 * 0.8 * TASK_S / Rules().heartbeat


def test_a_queue_that_forgets_who_it_was_taken_from_would_be_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the simulation asserts is no matter of course."""
    commit = Claim.commit

    def commit_as_somebody_else(claim: Claim, result: dict[str, str]) -> None:
        commit(claim, {**result, "claim": "of another claim"})

    monkeypatch.setattr(Claim, "commit", commit_as_somebody_else)
    fleet = Fleet(2, 4, Faults(), rules=Rules(), seed=0)
    fleet.run()
    with pytest.raises(AssertionError):
        fleet.check()
