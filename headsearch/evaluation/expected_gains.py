"""The gains of a search's heads as predicted from published solo runs, as scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from headsearch.evaluation.scores import RungScores, Scores
from headsearch.runs.published_gains import predicted_gain, static_prior


def with_expected_gains(scores: RungScores, families: Mapping[str, str]) -> RungScores:
    """The scores of a rung with `predicted_gain` and `static_prior` added to those of heads.

    Args:
        scores: of base and heads.
        families: the family of each head.
    """
    base = scores.base.choose

    def added(name: str, head: Scores) -> Scores:
        advantage = head.choose.linear - base.linear if head.choose and base else math.nan
        return head.with_further(
            predicted_gain=predicted_gain(advantage, head.forms["cka"]),
            static_prior=static_prior(name, families[name]),
        )

    return replace(scores, heads={name: added(name, head) for name, head in scores.heads.items()})
