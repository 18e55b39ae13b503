"""Scores of a rung: the base and every live head, on the same held-out images.

The teacher network is scored, without augmentation. The labels are split: the scores on the split
`choose` decide about pruning and ranking; those on the split `report` are only reported.

Shapes: N images, M queries, P probe images, D width, H × W the grid of a map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeAlias

import torch
from torch import Tensor

from headsearch.config.normalization import IMAGENET, Normalization
from headsearch.data import Data
from headsearch.data.domains import DOMAINS
from headsearch.evaluation.collapse import effective_rank, prototype_entropies
from headsearch.evaluation.complementarity import BaseProbe
from headsearch.evaluation.discrepancy import DISCREPANCIES, discrepancy_of_grams
from headsearch.evaluation.features import RungFeatures, batches, head_groups
from headsearch.evaluation.jackknife import Estimate, jackknife
from headsearch.evaluation.proxies.labelled import LabelledImages
from headsearch.evaluation.scores import (
    PROTOTYPE_KL,
    Accuracies,
    Prototypes,
    PrototypeUse,
    RungScores,
    Scores,
)
from headsearch.evaluation.similarity import (
    BaseGram,
    cka_of_grams,
    dominant_share_of_gram,
    gram,
    map_features,
    pooled_map,
    prototype_kl,
)
from headsearch.models.bases import BaseOutput
from headsearch.models.network import BASE, Network, tokens_of

TOP = 5
"""The number of likeliest classes of which one has to be right for `linear_top5`."""


@dataclass(frozen=True)
class ScoringProgress:
    """How much of a rung is scored.

    Attributes:
        heads_done: the number of heads whose scores are known.
        heads: the number of heads.
        share: of the work, from 0 to 1.
    """

    heads_done: int
    heads: int
    share: float


OnScoring: TypeAlias = Callable[[ScoringProgress], object]


class _Work:
    """Counts the work of scoring. A head has three parts: on the probe images, on the others, its
    scores; without heads there is one, the base on the other images."""

    def __init__(self, heads: int, on_progress: OnScoring) -> None:
        self._heads, self._on_progress = heads, on_progress
        self._total, self._done, self._heads_done = 3 * heads or 1, 0.0, 0

    def did(self, parts: float, heads: int = 0) -> None:
        """Some more parts are done, and perhaps the last ones of some heads."""
        self._done, self._heads_done = self._done + parts, self._heads_done + heads
        share = min(1.0, self._done / self._total)
        self._on_progress(ScoringProgress(self._heads_done, self._heads, share))


@torch.no_grad()
def score_rung(
    network: Network,
    data: Data,
    *,
    measure: str,
    batch_size: int,
    autocast: bool,
    summary: Callable[[BaseOutput], Tensor],
    prototypes: Prototypes | None = None,
    heads: Sequence[str] | None = None,
    normalization: Normalization = IMAGENET,
    on_progress: OnScoring = lambda _: None,
) -> RungScores:
    """Scores the base and heads of a network, which is left in evaluation mode.

    Memory for token maps does not grow with the number of heads: only the base's maps on the probe
    images are kept, and the tokens of one head at a time are computed from them.

    Args:
        network: the teacher.
        data: bank and queries are used; without a bank there are no accuracies.
        measure: the discrepancy: a name in `DISCREPANCIES`, or `PROTOTYPE_KL` if there are
            prototypes.
        batch_size: images in a forward pass.
        autocast: whether matrix products run in bfloat16.
        summary: from the base's output to the features (B, D) that represent an image in the base's
            scores.
        prototypes: the objective's, if it has any.
        heads: the names of those to score; all by default.
        normalization: that of the images that the network was trained with.
        on_progress: called many times while they are scored. It waits for no device.
    """
    network.eval()
    scored = {name: network.heads[name] for name in (network.heads if heads is None else heads)}
    labelled = _labelled(data, next(network.parameters()).device)
    base_pooled: Tensor | None = None
    probe: BaseProbe | None = None
    scores: dict[str, Scores] = {}
    work = _Work(len(scored), on_progress)
    for names in head_groups(scored, data):
        features = RungFeatures(
            network, data, names, batch_size, summary, autocast=autocast,
            normalization=normalization,
        )  # fmt: skip
        maps_PDHW = features.base_on_probe()
        if base_pooled is None:
            base = _BaseOnProbe.of(features.windows(tokens_of(maps_PDHW[0].float())))
        compared = {}
        for name in names:
            tokens_PND = features.windows(features.head_on_probe(name, maps_PDHW))
            compared[name] = base.compare(tokens_PND, measure)
            work.did(1)
        del maps_PDHW  # the other images need the memory
        for share in features.finish():
            work.did(max(1, len(names)) * share)
        if base_pooled is None:
            base_pooled = features.base()
            scores[BASE] = _with_prototypes(
                _scores(base_pooled, data, labelled), BASE, base_pooled, data, prototypes
            )
            probe = BaseProbe(features.base_map(), labelled) if labelled is not None else None
        for name in names:
            pooled = features.head(name)
            own = _scores(pooled, data, labelled, probe)
            own = _with_prototypes(own, name, pooled, data, prototypes)
            scores[name] = own.relative_to_base(*compared[name])
            if measure == PROTOTYPE_KL:
                assert prototypes is not None
                queries = len(data.queries)
                difference = _prototype_difference(
                    prototypes, (BASE, base_pooled[:queries]), (name, pooled[:queries])
                )
                scores[name] = replace(scores[name], discrepancy=difference)
            work.did(1, heads=1)
        del features  # frees memory for the next group
    return RungScores(
        base=scores.pop(BASE), heads=scores, dominant_share=dominant_share_of_gram(base.map.gram_NN)
    )


@dataclass(frozen=True)
class _BaseOnProbe:
    """The base on the probe images, to be compared with every head.

    Attributes:
        map: the Gram matrix of its token map.
        pooled_PP: the Gram matrix of its pooled map.
    """

    map: BaseGram
    pooled_PP: Tensor

    @classmethod
    def of(cls, tokens_PND: Tensor) -> _BaseOnProbe:
        return cls(BaseGram(gram(map_features(tokens_PND))), gram(pooled_map(tokens_PND)))

    def compare(
        self, tokens_PND: Tensor, measure: str
    ) -> tuple[Estimate | None, dict[str, float], float]:
        """A head's discrepancy, all its forms, and `discrepancy_pooled`.

        The first is None for `PROTOTYPE_KL`, which needs other features.
        """
        head_PP = gram(map_features(tokens_PND))
        forms = {
            form: float(entry.compare(self.map, head_PP)) for form, entry in DISCREPANCIES.items()
        }
        difference = (
            discrepancy_of_grams(self.map.gram_NN, head_PP, measure)
            if measure != PROTOTYPE_KL
            else None
        )
        pooled = 1 - float(cka_of_grams(self.pooled_PP, gram(pooled_map(tokens_PND))))
        return difference, forms, pooled


def _with_prototypes(
    scores: Scores, owner: str, pooled_ND: Tensor, data: Data, prototypes: Prototypes | None
) -> Scores:
    """The scores with the use of prototypes added, if there are any."""
    if prototypes is None:
        return scores
    logits = prototypes.logits(owner, pooled_ND[: len(data.queries)]).float()
    # The mean over the images stands for the teacher's centre.
    entropies = prototype_entropies(logits - logits.mean(dim=0), prototypes.temperature)
    return replace(scores, prototype_use=PrototypeUse(*entropies, logits.shape[1]))


def _prototype_difference(
    prototypes: Prototypes, base: tuple[str, Tensor], head: tuple[str, Tensor]
) -> Estimate:
    """The objective's own discrepancy on the queries, with its interval over images."""
    base_logits, head_logits = (
        prototypes.logits(owner, pooled).float() for owner, pooled in (base, head)
    )

    def score(kept: Tensor | None) -> float:
        if kept is None:
            return prototype_kl(base_logits, head_logits, prototypes.temperature)
        kept = kept.to(base_logits.device)
        return prototype_kl(base_logits[kept], head_logits[kept], prototypes.temperature)

    return jackknife(score, len(base_logits))


def raw_inputs(data: Data) -> Scores:
    """The scores of the inputs themselves, such as shrunk pixels: a baseline without learning."""
    both = chain(batches(data.queries, 256), batches(data.bank, 256))
    features = DOMAINS[data.domain].raw(both, data.queries.shape)
    return _scores(features, data, _labelled(data, features.device))


def _labelled(data: Data, device: torch.device) -> LabelledImages | None:
    """The labels of bank and queries; None if there are none."""
    if data.bank is None or data.bank.labels is None or data.queries.labels is None:
        return None
    return LabelledImages(
        data.bank.labels.to(device),
        data.queries.labels.to(device),
        data.choose,
        data.report,
        len(data.bank.classes),
    )


def _scores(
    pooled_ND: Tensor,
    data: Data,
    labelled: LabelledImages | None,
    base: BaseProbe | None = None,
) -> Scores:
    """Effective rank and accuracies of pooled features, queries before bank.

    Args:
        pooled_ND: the features.
        data: bank and queries.
        labelled: their labels, if there are any.
        base: the probe of the base that a head is compared with.
    """
    rank = effective_rank(pooled_ND[: len(data.queries)])
    if labelled is None:
        return Scores(rank, choose=None, report=None)
    knn, probe = labelled.knn(pooled_ND), labelled.linear_scores(pooled_ND)
    linear, best = probe.predicted(), probe.best(TOP)

    def accuracies(split: Tensor) -> Accuracies:
        return Accuracies(
            labelled.accuracy(knn, split),
            labelled.accuracy(linear, split),
            None if best is None else labelled.share_among(best, split),
        )

    further = base.compare(pooled_ND, linear) if base is not None else {}
    return Scores(rank, accuracies(labelled.choose), accuracies(labelled.report), further=further)
