"""The scores of one rung as typed values, and their means over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from torch import Tensor

from headsearch.evaluation.jackknife import Estimate
from headsearch.evaluation.proxies.grouped_scores import GroupedScores, mean_of_seeds
from headsearch.runs.other_data import OTHER_DATA_RANKINGS, OTHER_DATA_SCORES
from headsearch.runs.rank_by import weights_of
from headsearch.runs.tables import FURTHER_SCORES

PROTOTYPE_KL = "prototype_kl"
"""A further measure of discrepancy, for objectives with prototypes only; the other measures are in
`DISCREPANCIES`."""


@dataclass(frozen=True)
class Accuracies:
    """Proxy accuracies of one representation on one split of the labels, as fractions.

    Attributes:
        knn: of k-NN.
        linear: of the linear probe.
        linear_top5: the share of queries whose class is among the linear probe's five likeliest;
            None if the bank has five classes or fewer.
    """

    knn: float
    linear: float
    linear_top5: float | None = None

    @property
    def mean(self) -> float:
        """The mean of k-NN and linear probe."""
        return (self.knn + self.linear) / 2


def top5_column(prefix: str, accuracies: Accuracies | None) -> dict[str, float]:
    """`PREFIX_top5` as rungs.csv holds it: NaN without labels, or with five classes or fewer."""
    known = accuracies.linear_top5 if accuracies else None
    return {f"{prefix}_top5": math.nan if known is None else known}


def accuracy_columns(prefix: str, accuracies: Accuracies | None) -> dict[str, float]:
    """`PREFIX_knn` and `PREFIX_linear` as tables hold them: NaN without labels."""
    return {
        f"{prefix}_knn": accuracies.knn if accuracies else math.nan,
        f"{prefix}_linear": accuracies.linear if accuracies else math.nan,
    }


def other_data_columns(scores: Mapping[str, float], prefix: str = "") -> dict[str, float]:
    """Scores on data of their own as tables hold them: NaN where the data do not give them."""
    return {f"{prefix}{name}": scores.get(name, math.nan) for name in OTHER_DATA_SCORES}


@dataclass(frozen=True)
class Prototypes:
    """The prototypes of an objective that has them.

    Attributes:
        logits: from the name of a head (`BASE` for the base) and its pooled features (N, D) to
            logits (N, P), before any centring.
        temperature: the teacher's.
    """

    logits: Callable[[str, Tensor], Tensor]
    temperature: float


@dataclass(frozen=True)
class PrototypeUse:
    """How a representation uses its prototypes; entropies in nats, see `prototype_entropies`.

    Attributes:
        of_mean: entropy of the mean prototype distribution.
        of_images: mean entropy of the images' distributions.
        prototypes: their number.
    """

    of_mean: float
    of_images: float
    prototypes: int

    @property
    def information(self) -> float:
        """The information that the prototypes carry about an image, in nats."""
        return self.of_mean - self.of_images


@dataclass(frozen=True)
class Scores:
    """The scores of one representation.

    Attributes:
        effective_rank: of the pooled features of the queries.
        choose: accuracies on the labels that decide; None without labels.
        report: accuracies on the labels that are only reported; None without labels.
        discrepancy: from the base, with its interval; None for the base itself.
        forms: the discrepancy by every measure of `DISCREPANCIES`, without intervals; empty for the
            base itself.
        prototype_use: None if the objective has no prototypes.
        further: those of `FURTHER_SCORES` that are known, by name; empty for the base itself.
        other_data: of dense tasks and of further tasks; empty without data for them.
    """

    effective_rank: float
    choose: Accuracies | None
    report: Accuracies | None
    discrepancy: Estimate | None = None
    forms: Mapping[str, float] = field(default_factory=dict)
    prototype_use: PrototypeUse | None = None
    further: Mapping[str, float] = field(default_factory=dict)
    other_data: GroupedScores = field(default_factory=GroupedScores)

    def relative_to_base(
        self, discrepancy: Estimate | None, forms: Mapping[str, float], pooled: float
    ) -> Scores:
        """The scores of a head with its discrepancies from the base added.

        Args:
            discrepancy: None if it is not known yet.
            forms: by every measure of `DISCREPANCIES`.
            pooled: `discrepancy_pooled`.
        """
        return replace(self, discrepancy=discrepancy, forms=forms).with_further(
            discrepancy_pooled=pooled
        )

    def with_further(self, **values: float) -> Scores:
        """The scores with some of `FURTHER_SCORES` added."""
        assert values.keys() <= FURTHER_SCORES.keys()
        return replace(self, further={**self.further, **values})

    @property
    def discrepancy_value(self) -> float:
        """The discrepancy as tables hold it: NaN for the base."""
        return self.discrepancy.value if self.discrepancy else math.nan

    def ranking_score(self, rank_by: str) -> float:
        """The score that ranks candidates; NaN if it is not known.

        Args:
            rank_by: its name in `RANK_BY`, or a weighted mean of such scores (`weights_of`).
        """
        weights = weights_of(rank_by)
        if len(weights) > 1:
            return sum(weight * self.ranking_score(name) for name, weight in weights.items())
        (rank_by,) = weights
        if rank_by in OTHER_DATA_RANKINGS:
            known = self.other_data.choose
            return fmean(known.get(name, math.nan) for name in OTHER_DATA_RANKINGS[rank_by])
        if rank_by in FURTHER_SCORES:
            return self.further.get(rank_by, math.nan)
        accuracy = self.choose.mean if self.choose else math.nan
        match rank_by:
            case "discrepancy":
                return self.discrepancy_value
            case "accuracy":
                return accuracy
            case "balanced":
                # A debiased discrepancy can be slightly negative.
                return math.sqrt(max(0.0, self.discrepancy_value) * accuracy)
        raise AssertionError(rank_by)

    def charts(self) -> dict[str, float]:
        """The figures that are drawn over training, by their names; NaN where there is none.

        They are on the samples that are reported on, as in rungs.csv.
        """
        return {
            "discrepancy": self.discrepancy_value,
            "k-NN": self.report.knn if self.report else math.nan,
            "linear": self.report.linear if self.report else math.nan,
            "effective rank": self.effective_rank,
            **other_data_columns(self.other_data.report),
        }


@dataclass(frozen=True)
class RungScores:
    """The scores of the base and of every head at one rung.

    Attributes:
        base: of the base.
        heads: by the name of the head.
        dominant_share: the share of variance of the base's first principal component on the probe
            images.
    """

    base: Scores
    heads: dict[str, Scores]
    dominant_share: float


def mean_over_seeds(scores: Sequence[RungScores]) -> RungScores:
    """The mean of the scores of a rung under several seeds, also of the bounds of intervals.

    All seeds use the same images, so averaging does not reduce the uncertainty over images.
    """
    if len(scores) == 1:
        return scores[0]
    return RungScores(
        base=_mean([each.base for each in scores]),
        heads={name: _mean([each.heads[name] for each in scores]) for name in scores[0].heads},
        dominant_share=fmean(each.dominant_share for each in scores),
    )


def _mean(scores: Sequence[Scores]) -> Scores:
    """The mean of each score of one representation."""

    def accuracies(on_seeds: Sequence[Accuracies | None]) -> Accuracies | None:
        known = [each for each in on_seeds if each is not None]
        if not known:
            return None
        top5 = [each.linear_top5 for each in known if each.linear_top5 is not None]
        return Accuracies(
            fmean(each.knn for each in known),
            fmean(each.linear for each in known),
            fmean(top5) if top5 else None,
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
        {
            name: fmean(each.further.get(name, math.nan) for each in scores)
            for name in scores[0].further
        },
        mean_of_seeds([each.other_data for each in scores]),
    )
