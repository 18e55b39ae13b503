"""Scores on data of their own: added to those of a rung, and written as rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from headsearch.config.normalization import IMAGENET
from headsearch.evaluation.other_data_rows import with_solo_run
from headsearch.evaluation.proxies.grouped_scores import GroupedScores
from headsearch.evaluation.rung import ScoringProgress
from headsearch.evaluation.scores import RungScores, Scores
from headsearch.models.network import BASE
from headsearch.training.other_data import OtherDataScoring, stages


class OneScore(OtherDataScoring):
    """A scoring with one score, whose value is that of the fingerprint."""

    @property
    def notes(self) -> Iterator[str]:
        yield from ()

    def of_network(self, network: Any, heads: Any, **how: Any) -> Mapping[str, GroupedScores]:
        how["on_share"](0.5)
        return {name: grouped(self.fingerprint, 0.5) for name in (BASE, *heads)}


def grouped(name: str, value: float) -> GroupedScores:
    return GroupedScores({name: value}, {name: value}, {name: (value,) * 10})


def scores(base: GroupedScores, head: GroupedScores) -> RungScores:
    of_base, of_head = (Scores(1.0, None, None, other_data=each) for each in (base, head))
    return RungScores(of_base, {"mixer-d1": of_head}, math.nan)


def test_one_scoring_after_another_keeps_the_scores_of_the_first() -> None:
    found = scores(GroupedScores(), GroupedScores())
    network: Any = None
    for name in ("seg_knn", "task_mean"):
        found = OneScore(name).added(
            found, network, autocast=False, normalization=IMAGENET, on_progress=lambda _: None
        )
    for each in (found.base, found.heads["mixer-d1"]):
        assert each.other_data.report == {"seg_knn": 0.5, "task_mean": 0.5}


def test_stages_report_their_share_of_the_whole() -> None:
    seen: list[float] = []
    first, second = stages(lambda progress: seen.append(progress.share), 2)
    first(ScoringProgress(0, 1, 1.0))
    second(ScoringProgress(1, 1, 0.5))
    assert seen == [0.5, 0.75]


def test_the_untrained_base_keeps_its_scores_when_the_base_is_scored_again() -> None:
    rows = with_solo_run([], scores(grouped("task_mean", 0.2), grouped("task_mean", 0.3)), 0)
    rows = with_solo_run(rows, scores(grouped("task_mean", 0.6), grouped("task_mean", 0.7)), 1)
    assert {row["representation"]: (row["kind"], row["rung"], row["value"]) for row in rows} == {
        "untrained": ("untrained", 0, 0.2),
        "base": ("base", 1, 0.6),
        "mixer-d1": ("head", 1, 0.7),
    }
    (head,) = (row for row in rows if row["kind"] == "head")
    assert abs(head["over_base"] - 0.1) < 1e-9
