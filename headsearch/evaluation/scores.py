"""Scores of one rung as typed values: accuracies, discrepancy, prototype use; means over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from torch import Tensor

from headsearch.evaluation.jackknife import Estimate

PROTOTYPE_KL = "prototype_kl"
"""The measure that only objectives with prototypes offer, beside those of `DISCREPANCIES`."""


@dataclass(frozen=True)
class Accuracies:
    """Proxy accuracies of one representation on one split of the labels, as fractions."""

    knn: float
    linear: float

    @property
    def mean(self) -> float:
        return (self.knn + self.linear) / 2


def accuracy_columns(prefix: str, accuracies: Accuracies | None) -> dict[str, float]:
    """`PREFIX_knn` and `PREFIX_linear` as tables hold them: NaN without labels."""
    return {
        f"{prefix}_knn": accuracies.knn if accuracies else math.nan,
        f"{prefix}_linear": accuracies.linear if accuracies else math.nan,
    }


@dataclass(frozen=True)
class Prototypes:
    """How an objective sorts images into prototypes, for objectives that have them.

    Attributes:
        logits: from the name of a head (`BASE` for the base) and its pooled features (N, D) to
            logits (N, P), before any centring.
        temperature: the teacher's.
    """

    logits: Callable[[str, Tensor], Tensor]
    temperature: float


@dataclass(frozen=True)
class PrototypeUse:
    """How a representation uses its prototypes: entropies in nats, see `prototype_entropies`."""

    of_mean: float
    of_images: float
    prototypes: int

    @property
    def information(self) -> float:
        """What the prototypes say about an image, in nats."""
        return self.of_mean - self.of_images


@dataclass(frozen=True)
class Scores:
    """The scores of one representation; accuracies are None without labels."""

    effective_rank: float
    choose: Accuracies | None
    report: Accuracies | None
    discrepancy: Estimate | None = None
    """How different it is from the base; None for the base itself."""
    forms: Mapping[str, float] = field(default_factory=dict)
    """The same by every measure of `DISCREPANCIES`, without intervals; none of the base itself."""
    prototype_use: PrototypeUse | None = None
    """None where the objective has no prototypes."""

    @property
    def discrepancy_value(self) -> float:
        """The discrepancy as tables hold it: NaN for the base."""
        return self.discrepancy.value if self.discrepancy else math.nan

    def charts(self) -> dict[str, float]:
        """The figures that are drawn over training, by their names; NaN where there is none.

        Accuracies are on the labels that are reported, as in rungs.csv.
        """
        return {
            "discrepancy": self.discrepancy_value,
            "k-NN": self.report.knn if self.report else math.nan,
            "linear": self.report.linear if self.report else math.nan,
            "effective rank": self.effective_rank,
        }

    def by(self, rank_by: str) -> float:
        """The one figure that pruner and ranking go by; accuracies are those of `choose`.

        `discrepancy`; `accuracy`: the mean of k-NN and linear probe; `balanced`: the geometric
        mean of these two, so that neither a copy of the base nor a useless head scores.
        """
        assert self.discrepancy is not None
        difference = self.discrepancy.value
        if rank_by == "discrepancy":
            return difference
        assert self.choose is not None, "without labels the ranking is by discrepancy"
        if rank_by == "accuracy":
            return self.choose.mean
        assert rank_by == "balanced"
        return math.sqrt(max(0.0, difference) * self.choose.mean)


@dataclass(frozen=True)
class RungScores:
    """The scores of the base and of every head at one rung."""

    base: Scores
    heads: dict[str, Scores]
    dominant_share: float
    """The share of the base's first principal component on the probe images."""


def mean_over_seeds(found: Sequence[RungScores]) -> RungScores:
    """The scores of a rung under several seeds as one: means, with mean intervals over images.

    The seeds share their images, so averaging does not narrow what the images leave open.
    """
    if len(found) == 1:
        return found[0]
    return RungScores(
        base=_mean([each.base for each in found]),
        heads={name: _mean([each.heads[name] for each in found]) for name in found[0].heads},
        dominant_share=fmean(each.dominant_share for each in found),
    )


def _mean(scores: Sequence[Scores]) -> Scores:
    def accuracies(of: Sequence[Accuracies | None]) -> Accuracies | None:
        known = [each for each in of if each is not None]
        return (
            Accuracies(*map(fmean, zip(*((a.knn, a.linear) for a in known), strict=True)))
            if known
            else None
        )

    estimates = [each.discrepancy for each in scores if each.discrepancy is not None]
    uses = [each.prototype_use for each in scores if each.prototype_use is not None]
    return Scores(
        fmean(each.effective_rank for each in scores),
        accuracies([each.choose for each in scores]),
        accuracies([each.report for each in scores]),
        Estimate(*map(fmean, zip(*((e.value, e.low, e.high) for e in estimates), strict=True)))
        if estimates
        else None,
        {form: fmean(each.forms[form] for each in scores) for form in scores[0].forms},
        PrototypeUse(
            fmean(use.of_mean for use in uses),
            fmean(use.of_images for use in uses),
            uses[0].prototypes,
        )
        if uses
        else None,
    )
