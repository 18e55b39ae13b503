"""`TaskScorer`: scores of the base and of heads on further evaluation sets (`--tasks`).

Shapes: M queries, N bank samples, P pairs, D width, G groups of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from statistics import fmean
from typing import TypeAlias

import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from headsearch.config.normalization import IMAGENET, Normalization
from headsearch.data.dense.images import GROUPS
from headsearch.data.domains import DOMAINS
from headsearch.data.tasks import Task
from headsearch.evaluation.features import RungFeatures, batches, head_groups
from headsearch.evaluation.proxies.dense_task import Statistic
from headsearch.evaluation.proxies.grouped_scores import GroupedScores, grouped_scores
from headsearch.evaluation.proxies.labelled import LabelledImages
from headsearch.models.bases import BaseOutput
from headsearch.models.network import BASE, Network
from headsearch.runs.other_data import OF_CLASS, TASK_MEAN

Scored: TypeAlias = "list[dict[str, Statistic] | None]"
"""The scores of one representation in each task; None where its features are not finite."""


@dataclass(frozen=True)
class TaskScorer:
    """The proxies of some tasks.

    A task with classes has the accuracies of k-NN and of a linear probe, as the run's own labels
    have. A task of pairs has Spearman's ρ between the scores of the pairs and the cosine of the
    pooled features of their texts (as in SentEval, Conneau & Kiela 2018, arXiv 1803.05449), after
    the mean of all features is subtracted: what all texts share hides how they differ (Mu &
    Viswanath 2018, arXiv 1702.01417).
    `task_mean` is the mean over the tasks, where the two accuracies of a task count half each.

    Attributes:
        tasks: the tasks.
        batch_size: samples in a forward pass.
    """

    tasks: Sequence[Task]
    batch_size: int

    @torch.no_grad()
    def of_network(
        self,
        network: Network,
        names: Sequence[str],
        summary: Callable[[BaseOutput], Tensor],
        *,
        autocast: bool,
        normalization: Normalization = IMAGENET,
        on_share: Callable[[float], object] = lambda _: None,
    ) -> dict[str, GroupedScores]:
        """The scores of the base (`BASE`) and of some heads of a network in evaluation mode.

        Args:
            network: the teacher.
            names: the heads.
            summary: from the base's output to the features (B, D) of a sample.
            autocast: whether matrix products run in bfloat16.
            normalization: that of the samples that the network was trained with.
            on_share: called after each batch with its share of the work.
        """
        found: dict[str, Scored] = {name: [] for name in (BASE, *names)}
        for task in self.tasks:
            groups = head_groups({name: network.heads[name] for name in names}, task)
            part = 1 / (len(self.tasks) * len(groups))
            for index, group in enumerate(groups):
                features = RungFeatures(
                    network, task, group, self.batch_size, summary, autocast=autocast,
                    normalization=normalization,
                )  # fmt: skip
                for share in features.finish(probed=False):
                    on_share(part * share)
                if index == 0:
                    found[BASE].append(statistics_of(task, features.base()))
                for name in group:
                    found[name].append(statistics_of(task, features.head(name)))
        return {name: scores_of(scored) for name, scored in found.items()}

    def raw(self) -> GroupedScores:
        """The scores of the inputs themselves: a baseline without learning."""
        scored: Scored = []
        for task in self.tasks:
            both = chain(batches(task.queries, 256), batches(task.bank, 256))
            scored.append(statistics_of(task, DOMAINS[task.domain].raw(both, task.queries.shape)))
        return scores_of(scored)


def scores_of(scored: Scored) -> GroupedScores:
    """The scores of one representation in all tasks, and their mean.

    A representation that diverged has none: a mean over some of the tasks would be another score.
    """
    known = [each for each in scored if each is not None]
    if not known or len(known) < len(scored):
        return GroupedScores()

    def mean(kept_G: Tensor) -> float:
        return fmean(fmean(each(kept_G) for each in task.values()) for task in known)

    return grouped_scores({TASK_MEAN: mean, **{k: v for task in known for k, v in task.items()}})


def statistics_of(task: Task, features: Tensor) -> dict[str, Statistic] | None:
    """The scores of pooled features in a task, by name; None if some are not finite.

    Args:
        task: the task.
        features: (M + N, D), queries before the bank; of pairs (2 P, D), all first texts before the
            second ones.
    """
    if not bool(features.isfinite().all()):
        return None
    # Contiguous parts: in a balanced order, every second sample may be of the same half of the
    # classes.
    group_K = torch.arange(len(task.order)) * (2 * GROUPS) // len(task.order)
    if task.scores is not None:
        centred = features.double() - features.double().mean(dim=0)
        first_PD, second_PD = centred.chunk(2)
        cosine_P = F.cosine_similarity(first_PD, second_PD).cpu()
        values = cosine_P[task.order], task.scores[task.order]
        return {f"task_spearman{OF_CLASS}{task.name}": partial(_spearman, *values, group_K)}
    assert task.bank is not None
    assert task.bank.labels is not None
    assert task.queries.labels is not None
    labels_M, device = task.queries.labels, features.device
    labelled = LabelledImages(
        task.bank.labels.to(device), labels_M.to(device), task.order, task.order,
        len(task.bank.classes),
    )  # fmt: skip
    predicted = {"knn": labelled.knn(features), "linear": labelled.linear(features)}
    return {
        f"task_{proxy}{OF_CLASS}{task.name}": partial(
            _share, (classes_M.cpu() == labels_M)[task.order], group_K
        )
        for proxy, classes_M in predicted.items()
    }


def _share(right_K: Tensor, group_K: Tensor, kept_G: Tensor) -> float:
    """The share of right predictions in the groups that are kept."""
    return float(right_K[kept_G[group_K]].double().mean())


def _spearman(cosine_P: Tensor, scores_P: Tensor, group_P: Tensor, kept_G: Tensor) -> float:
    """Spearman's ρ on the pairs in the groups that are kept; 0 if the cosines are all equal."""
    kept_P = kept_G[group_P]
    cosine, scores = cosine_P[kept_P], scores_P[kept_P]
    if len(cosine.unique()) < 2 or len(scores.unique()) < 2:
        return 0.0
    return float(stats.spearmanr(cosine.numpy(), scores.numpy()).statistic)
