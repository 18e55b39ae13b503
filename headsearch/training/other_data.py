"""`OtherDataScoring`: adds scores on dense data or further tasks to those of a rung."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from headsearch.config.normalization import Normalization
from headsearch.evaluation.proxies.grouped_scores import GroupedScores, joined
from headsearch.evaluation.rung import OnScoring, ScoringProgress
from headsearch.evaluation.scores import RungScores, Scores
from headsearch.models.network import BASE, Network


@dataclass(frozen=True)
class OtherDataScoring(ABC):
    """The scores of a run on data of their own.

    Attributes:
        fingerprint: of their annotations, to check that a resumed run has the same.
    """

    fingerprint: str

    @property
    @abstractmethod
    def notes(self) -> Iterator[str]:
        """What was understood of the data, one line each."""

    @abstractmethod
    def of_network(
        self,
        network: Network,
        heads: Sequence[str],
        *,
        autocast: bool,
        normalization: Normalization,
        on_share: Callable[[float], object] = lambda _: None,
    ) -> Mapping[str, GroupedScores]:
        """The scores of the base (`BASE`) and of some heads of a network in evaluation mode.

        Args:
            network: the teacher.
            heads: their names.
            autocast: whether matrix products run in bfloat16.
            normalization: that of the samples that the network was trained with.
            on_share: called many times, with the share of the work that was done since.
        """

    def added(
        self,
        scores: RungScores,
        network: Network,
        *,
        autocast: bool,
        normalization: Normalization,
        on_progress: OnScoring,
    ) -> RungScores:
        """The scores of a rung with these scores of the base and of its heads.

        Args:
            scores: of the base and of some heads.
            network, autocast, normalization: as in `of_network`.
            on_progress: called many times while they are scored.
        """
        done, heads = 0.0, list(scores.heads)

        def on_share(share: float) -> None:
            nonlocal done
            done = min(1.0, done + share)
            on_progress(ScoringProgress(len(heads), len(heads), done))

        found = self.of_network(
            network, heads, autocast=autocast, normalization=normalization, on_share=on_share
        )

        def with_found(of: Scores, name: str) -> Scores:
            return replace(of, other_data=joined([of.other_data, found[name]]))

        return replace(
            scores,
            base=with_found(scores.base, BASE),
            heads={name: with_found(each, name) for name, each in scores.heads.items()},
        )


def stages(on_progress: OnScoring, count: int) -> Iterator[OnScoring]:
    """Functions that report the progress of each of some stages as that of the whole."""

    def reporting(stage: int) -> OnScoring:
        return lambda progress: on_progress(
            replace(progress, share=(stage + progress.share) / count)
        )

    return map(reporting, range(count))
