"""The scores that heads are pruned and ranked by (`--rank-by`), and their weighted means."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from headsearch.errors import UserError, unknown
from headsearch.runs.other_data import OTHER_DATA_RANKINGS, OTHER_DATA_SCORES, TASKS, missing_for
from headsearch.runs.tables import FURTHER_SCORES
from headsearch.text import listing


@dataclass(frozen=True)
class RankBy:
    """A score that candidates can be pruned and ranked by; larger is better.

    `headsearch.evaluation.scores.Scores.ranking_score` computes it.

    Attributes:
        words: what it is, to follow "ranked by" (`Words.say`).
        why: why the first-ranked head is first, to follow "because" (`Words.say`).
        needs_labels: whether it needs labels.
        other_data: the scores on data of their own whose mean it is; empty for other scores.
    """

    words: str
    why: str
    needs_labels: bool = False
    other_data: tuple[str, ...] = ()


def _other_data(name: str, why: str) -> RankBy:
    scores = OTHER_DATA_RANKINGS[name]
    words = " and ".join(f"{score} ({OTHER_DATA_SCORES[score]})" for score in scores)
    return RankBy(f"the mean of {words}" if len(scores) > 1 else words, why, other_data=scores)


def _further(name: str, why: str, *, needs_labels: bool = False) -> RankBy:
    return RankBy(f"{name} ({FURTHER_SCORES[name]})", why, needs_labels)


ABSORPTION = "absorption"

RANK_BY: dict[str, RankBy] = {
    "discrepancy": RankBy("discrepancy from the base", "it differs most from the base"),
    "accuracy": RankBy(
        "proxy accuracy, the mean of k-NN and linear accuracy",
        "its representation is the most accurate on the labels that choose",
        needs_labels=True,
    ),
    "balanced": RankBy(
        "the geometric mean of discrepancy and proxy accuracy",
        "it best balances difference from the base with accuracy",
        needs_labels=True,
    ),
    "complementarity": _further(
        "complementarity", "its features add the most to those of the base", needs_labels=True
    ),
    "head_only_right": _further(
        "head_only_right",
        "it is right about the most {samples} that the base gets wrong",
        needs_labels=True,
    ),
    "discrepancy_pooled": _further(
        "discrepancy_pooled", "its pooled features differ most from those of the base"
    ),
    ABSORPTION: _further(ABSORPTION, "learning from it agrees most with the base's own objective"),
    "predicted_gain": _further(
        "predicted_gain", "the largest gain is expected from it", needs_labels=True
    ),
    "static_prior": _further(
        "static_prior", "it, or its family, gained the most in published settings"
    ),
    "segmentation": _other_data("segmentation", "its map segments images best"),
    "regions": _other_data("regions", "its features tell best what stands in a box"),
    "detection": _other_data("detection", "objects are found best in its map"),
    "masks": _other_data("masks", "the outlines of objects are found best in its map"),
    TASKS: _other_data(TASKS, "its mean over the further tasks is the largest"),
}
"""The scores that candidates can be ranked by. `balanced` ranks neither a copy of the base nor a
useless head high."""


AUTO = "auto"
"""The setting that ranks by accuracy if there are labels, else by discrepancy."""


MEAN_FORM = "SCORE:WEIGHT,SCORE:WEIGHT, as in accuracy:1,segmentation:1"
"""How a weighted mean is written. A score without a weight has weight 1."""


def check_rank_by(name: str) -> None:
    """Raises UserError if there is no such score, or a weighted mean is not written as one."""
    if not _is_mean(name) and name not in (AUTO, *RANK_BY):
        raise unknown("--rank-by", name, (AUTO, *RANK_BY))
    weights_of(name)


def _is_mean(name: str) -> bool:
    return "," in name or ":" in name


def weights_of(name: str) -> dict[str, float]:
    """The scores that a ranking goes by, with weights that add up to 1.

    A name of `RANK_BY` (or `AUTO`) has weight 1; "accuracy:1,segmentation:3" gives 0.25 and 0.75.

    Raises:
        UserError: a weighted mean names an unknown score, one score alone or one twice, or a weight
            is no number above 0.
    """
    if not _is_mean(name):
        return {name: 1.0}
    weights: dict[str, float] = {}
    for part in name.split(","):
        score, colon, written = (text.strip() for text in part.partition(":"))
        if score not in RANK_BY:
            raise unknown("score in --rank-by", score, RANK_BY)
        if score in weights:
            raise UserError(f"--rank-by {name}: {score} is named twice; use {MEAN_FORM}")
        try:
            weights[score] = float(written) if colon else 1.0
        except ValueError:
            weights[score] = math.nan
        if not 0 < weights[score] < math.inf:
            raise UserError(
                f"--rank-by {name}: the weight {written!r} of {score} is no number above 0; use "
                f"{MEAN_FORM}"
            )
    if len(weights) == 1:
        raise UserError(f"--rank-by {name}: a weighted mean is of two scores or more: {MEAN_FORM}")
    total = sum(weights.values())
    return {score: weight / total for score, weight in weights.items()}


def criterion(name: str) -> RankBy:
    """What a ranking goes by: a score, or the weighted mean of several."""
    if name in RANK_BY:
        return RANK_BY[name]
    weights = weights_of(name)
    shares = listing([f"{score} ({100 * weight:.3g}%)" for score, weight in weights.items()])
    parts = [RANK_BY[score] for score in weights]
    return RankBy(
        f"the weighted mean of {shares}",
        f"its weighted mean of {listing(list(weights))} is the largest",
        needs_labels=any(part.needs_labels for part in parts),
        other_data=tuple(column for part in parts for column in part.other_data),
    )


def resolved_rank_by(name: str, *, labelled: bool, data: str, unused_labels: str = "") -> str:
    """The score that candidates are ranked by.

    Args:
        name: the setting.
        labelled: whether the evaluation images have labels.
        data: what these images are called, for the error message.
        unused_labels: why their labels are not used, if there are any; likewise.

    Raises:
        UserError: the score needs labels, and there are none, or none that can be used.
    """
    if name == AUTO:
        return "accuracy" if labelled else "discrepancy"
    if criterion(name).needs_labels and not labelled:
        without = ", ".join(
            other for other, each in RANK_BY.items() if not (each.needs_labels or each.other_data)
        )
        if unused_labels:
            raise UserError(
                f"--rank-by {name} needs queries that can be classified, but of {data} "
                f"{unused_labels}; use data with the same classes on both sides or one of: "
                f"{without}"
            )
        raise UserError(
            f"--rank-by {name} needs labels, and {data} has none; use labelled --eval-data or one "
            f"of: {without}"
        )
    return name


def check_other_data(name: str, available: Collection[str], dense_data: str | None) -> None:
    """Checks that dense data and tasks give the scores that candidates are to be ranked by.

    Args:
        name: the setting.
        available: the scores that the data give.
        dense_data: the setting, for the error message.

    Raises:
        UserError: they do not.
    """
    missing = next((part for part in weights_of(name) if missing_for(part, available)), None)
    if missing is None:
        return
    if missing == TASKS:
        raise UserError(f"--rank-by {name} needs further tasks: --tasks NAME=DATA")
    needed = "boxes" if missing in ("regions", "detection") else "masks"
    needed = "masks of objects" if missing == "masks" else needed
    if dense_data is None:
        raise UserError(f"--rank-by {name} needs --dense-data with {needed}, such as scenes-things")
    given = [o for o in OTHER_DATA_RANKINGS if o != TASKS and not missing_for(o, available)]
    can = f"; {dense_data} gives {', '.join(given)}" if given else ""
    raise UserError(f"--rank-by {name} needs --dense-data with {needed}{can}")
