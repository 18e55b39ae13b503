"""Whether a head of a search has collapsed, given its scores."""

from __future__ import annotations

from headsearch.evaluation.collapse import collapse_reason
from headsearch.evaluation.scores import RungScores
from headsearch.study.leaderboard import Entry
from headsearch.study.setup import SearchSetup


def why_collapsed(entry: Entry, scores: RungScores, prepared: SearchSetup) -> str | None:
    """Why a head counts as collapsed, given the scores with one seed; None if it does not."""
    head, base = scores.heads[entry.candidate.name], scores.base
    prototype_use = head.prototype_use
    return collapse_reason(
        head.effective_rank,
        prepared.plan.stages[entry.candidate.feature_index].dim,
        prototype_use.of_mean if prototype_use else None,
        prototype_use.prototypes if prototype_use else None,
        images=len(prepared.data.queries),
        base_rank=base.effective_rank,
        image_entropy=prototype_use.of_images if prototype_use else None,
        base_information=base.prototype_use.information if base.prototype_use else None,
    )
