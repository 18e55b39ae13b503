"""How long training waits for images is measured, shown from 5 % on, and kept in snapshots."""

from __future__ import annotations

import pytest

from headsearch.report.console import speed_words, step_words
from headsearch.runs import throughput
from headsearch.runs.throughput import Throughput


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)
    return clock


def test_the_share_of_waiting_is_that_of_the_training_time(clock: Clock):
    pace = Throughput(32, steps=100, rungs=2, cohorts=1)
    clock.now = 4.0
    pace.trained(10, waited_s=1.0)
    assert pace.waiting_share == pytest.approx(0.25)
    assert "waits for data 25%" in step_words(10, 100, pace, "clips")
    assert "waits for data 25%" in speed_words(pace, "clips", last=False)
    clock.now = 10.0
    pace.trained(10, waited_s=0.06)
    assert pace.waiting_share == pytest.approx(0.01)
    assert not any("waits" in word for word in speed_words(pace, "clips", last=False))
    assert pace.facts()["waiting_share"] == pytest.approx(0.106)


def test_it_goes_on_from_a_snapshot_and_from_one_that_is_older(clock: Clock):
    pace = Throughput(32, steps=100, rungs=2, cohorts=1)
    clock.now = 4.0
    pace.trained(10, waited_s=1.0)
    record = pace.record_of()
    older = {name: value for name, value in record.items() if name != "waited_s"}
    for each, share in ((record, 0.25), (older, 0.0)):
        again = Throughput(32, steps=100, rungs=2, cohorts=1)
        again.restore(each)
        assert again.facts()["waiting_share"] == pytest.approx(share)
