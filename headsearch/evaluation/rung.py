"""Scores of a rung: the base and every live head, on the same held-out images.

The teacher network is scored, without augmentation. The labels are split: the scores on the split
`choose` decide about pruning and ranking; those on the split `report` are only reported.

Shapes: N images, M queries, P probe images, D width, H × W the grid of a map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from headsearch.data import Data
from headsearch.data.image.views import normalize
from headsearch.evaluation.collapse import effective_rank, prototype_entropies
from headsearch.evaluation.discrepancy import DISCREPANCIES, discrepancy_of_grams
from headsearch.evaluation.features import RungFeatures, batches
from headsearch.evaluation.jackknife import Estimate, jackknife
from headsearch.evaluation.proxies.knn import accuracy, knn_predict
from headsearch.evaluation.proxies.linear import linear_predict
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
    dominant_share_of_gram,
    gram,
    map_features,
    prototype_kl,
)
from headsearch.models.bases import BaseOutput
from headsearch.models.network import BASE, AttachedHead, Network, tokens_of

POOLED_NUMBERS = 2**26
"""At most so many pooled features are held in memory: 256 MiB. If the heads need more, they are
scored in groups, and the base processes the images once per group."""


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
    """
    network.eval()
    scored = {name: network.heads[name] for name in (network.heads if heads is None else heads)}
    base_pooled: Tensor | None = None
    scores: dict[str, Scores] = {}
    for names in _groups(scored, data):
        features = RungFeatures(network, data, names, batch_size, summary, autocast=autocast)
        maps_PDHW = features.base_on_probe()
        if base_pooled is None:
            base = BaseGram(gram(map_features(tokens_of(maps_PDHW[0].float()))))
        forms: dict[str, dict[str, float]] = {}
        differences: dict[str, Estimate] = {}
        for name in names:
            head_gram = gram(map_features(features.head_on_probe(name, maps_PDHW)))
            forms[name] = {
                form: float(entry.compare(base, head_gram)) for form, entry in DISCREPANCIES.items()
            }
            if measure != PROTOTYPE_KL:
                differences[name] = discrepancy_of_grams(base.gram_NN, head_gram, measure)
        del maps_PDHW  # the other images need the memory
        features.finish()
        if base_pooled is None:
            base_pooled = features.base()
            scores[BASE] = _with_prototypes(
                _scores(base_pooled, data), BASE, base_pooled, data, prototypes
            )
        for name in names:
            pooled = features.head(name)
            if measure == PROTOTYPE_KL:
                assert prototypes is not None
                queries = len(data.queries)
                differences[name] = _prototype_difference(
                    prototypes, (BASE, base_pooled[:queries]), (name, pooled[:queries])
                )
            own = _with_prototypes(_scores(pooled, data), name, pooled, data, prototypes)
            scores[name] = replace(own, discrepancy=differences[name], forms=forms[name])
        del features  # frees memory for the next group
    return RungScores(
        base=scores.pop(BASE), heads=scores, dominant_share=dominant_share_of_gram(base.gram_NN)
    )


def _groups(heads: Mapping[str, AttachedHead], data: Data) -> list[list[str]]:
    """Groups of heads whose pooled features fit into memory; one empty group without heads."""
    images = len(data.queries) + (len(data.bank) if data.bank is not None else 0)
    widest = max((head.norm.weight.numel() for head in heads.values()), default=1)
    names, at_once = list(heads), max(1, POOLED_NUMBERS // (images * widest))
    return [names[begin : begin + at_once] for begin in range(0, len(names), at_once)] or [[]]


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


def raw_pixels(data: Data, side: int = 32) -> Scores:
    """The scores of the images' own pixels, shrunk to `side`: a baseline without learning."""
    shrunk = [
        F.adaptive_avg_pool2d(normalize(images), min(side, data.queries.image_size)).flatten(1)
        for images in chain(batches(data.queries, 256), batches(data.bank, 256))
    ]
    return _scores(torch.cat(shrunk), data)


def _scores(pooled_ND: Tensor, data: Data) -> Scores:
    """Effective rank and accuracies of pooled features, queries before bank."""
    queries_MD = pooled_ND[: len(data.queries)]
    rank = effective_rank(queries_MD)
    if data.bank is None or data.bank.labels is None or data.queries.labels is None:
        return Scores(rank, choose=None, report=None)
    labels = data.queries.labels.to(pooled_ND.device)
    bank_labels = data.bank.labels.to(pooled_ND.device)
    bank_ND = pooled_ND[len(data.queries) :]
    classes = len(data.bank.classes)
    knn = knn_predict(bank_ND, bank_labels, queries_MD, classes)
    linear = linear_predict(bank_ND, bank_labels, queries_MD, classes)

    def accuracies_on(split: Tensor) -> Accuracies:
        target = labels[split]
        return Accuracies(accuracy(knn[split], target), accuracy(linear[split], target))

    return Scores(rank, choose=accuracies_on(data.choose), report=accuracies_on(data.report))
