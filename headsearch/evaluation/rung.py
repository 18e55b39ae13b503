"""The scores of a rung: every live head and the base, on the same held-out images.

Teacher network, no augmentation. Labels are split: what `choose` holds may decide, what `report`
holds is only ever reported.

Shapes: M queries, P probe images, D width, H × W the grid of a map.
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
"""Pooled features that are held together, at most: 256 MiB. More heads take turns, and the base
passes over the images anew for each turn."""


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

    The base passes over bank and queries once for as many heads as `POOLED_NUMBERS` lets be held
    together. The probe images come first: token maps are kept of the base alone and only on these,
    from which each head's are made in its turn: memory does not grow with the number of heads.

    Args:
        network: the teacher.
        data: bank and queries are used; without a bank there are no accuracies.
        measure: which discrepancy: of `DISCREPANCIES`, or `PROTOTYPE_KL` if there are prototypes.
        batch_size: images in a forward.
        autocast: whether matrix products run in bfloat16.
        summary: the features (B, D) that stand for an image in the base's scores.
        prototypes: the objective's, where it has any.
        heads: which ones; by default all.
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
        del maps_PDHW
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
        del features  # before the next turn's
    return RungScores(
        base=scores.pop(BASE), heads=scores, dominant_share=dominant_share_of_gram(base.gram_NN)
    )


def _groups(heads: Mapping[str, AttachedHead], data: Data) -> list[list[str]]:
    """Heads whose pooled features may be held together; one empty group where there are none."""
    images = len(data.queries) + (len(data.bank) if data.bank is not None else 0)
    widest = max((head.norm.weight.numel() for head in heads.values()), default=1)
    names, at_once = list(heads), max(1, POOLED_NUMBERS // (images * widest))
    return [names[begin : begin + at_once] for begin in range(0, len(names), at_once)] or [[]]


def _with_prototypes(
    scores: Scores, owner: str, pooled_ND: Tensor, data: Data, prototypes: Prototypes | None
) -> Scores:
    """The same with the use of prototypes, where there are any."""
    if prototypes is None:
        return scores
    logits = prototypes.logits(owner, pooled_ND[: len(data.queries)]).float()
    entropies = prototype_entropies(logits - logits.mean(dim=0), prototypes.temperature)
    return replace(scores, prototype_use=PrototypeUse(*entropies, logits.shape[1]))


def _prototype_difference(
    prototypes: Prototypes, base: tuple[str, Tensor], head: tuple[str, Tensor]
) -> Estimate:
    """The objective's own measure on the queries, with its interval over images."""
    of_base, of_head = (prototypes.logits(owner, pooled).float() for owner, pooled in (base, head))

    def score(kept: Tensor | None) -> float:
        if kept is None:
            return prototype_kl(of_base, of_head, prototypes.temperature)
        kept = kept.to(of_base.device)
        return prototype_kl(of_base[kept], of_head[kept], prototypes.temperature)

    return jackknife(score, len(of_base))


def raw_pixels(data: Data, side: int = 32) -> Scores:
    """The scores of the images' own pixels, shrunk to `side`: a baseline that learns nothing."""
    shrunk = [
        F.adaptive_avg_pool2d(normalize(images), min(side, data.queries.image_size)).flatten(1)
        for images in chain(batches(data.queries, 256), batches(data.bank, 256))
    ]
    return _scores(torch.cat(shrunk), data)


def _scores(pooled_ND: Tensor, data: Data) -> Scores:
    """What can be said of pooled features of queries and bank, in this order."""
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

    def on(split: Tensor) -> Accuracies:
        of_split = labels[split]
        return Accuracies(accuracy(knn[split], of_split), accuracy(linear[split], of_split))

    return Scores(rank, choose=on(data.choose), report=on(data.report))
