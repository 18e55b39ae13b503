"""What stands in a box: k-NN and a linear probe on the pooled features of true boxes.

Shapes: B images, D width, H × W the grid, N boxes of the training images, M of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from headsearch.data.dense import Objects
from headsearch.evaluation.proxies.dense_task import Statistic
from headsearch.evaluation.proxies.grids import in_cells, regions_of
from headsearch.evaluation.proxies.knn import knn_predict
from headsearch.evaluation.proxies.linear import linear_scores


class Regions:
    """k-NN and linear classification of true boxes, for one data set and grid.

    Crowds and difficult objects are left out.

    Args:
        train, evaluation: the objects of each image.
        group_N: the group of each evaluation image.
        classes: of boxes.
        grid: H × W.
        samples: the most training boxes; they are evenly spaced if there are more.
        device: of the features.
    """

    columns: tuple[str, ...] = ("region_knn", "region_linear")

    def __init__(
        self,
        train: Sequence[Objects],
        evaluation: Sequence[Objects],
        group_N: Tensor,
        classes: int,
        grid: tuple[int, int],
        samples: int,
        device: torch.device,
    ) -> None:
        self.group_N, self.classes, self.device = group_N, classes, device
        self._train = _usable(train, grid, device, samples)
        self.evaluation = _usable(evaluation, grid, device)

    def rows(self, map_BDHW: Tensor, images: range) -> Tensor:
        """The pooled features of the boxes of these training images."""
        return pooled_boxes(map_BDHW, [self._train[i][0] for i in images])

    def fit(self, rows_ND: Tensor) -> FittedRegions:
        """The rows are the bank; predictions are made at the end."""
        return FittedRegions(self, rows_ND, torch.cat([labels for _, labels in self._train]))


def _usable(
    objects: Sequence[Objects], grid: tuple[int, int], device: torch.device, most: int | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Boxes in cells and labels of the objects of each image that count."""
    total = sum(int((~each.ignored).sum()) for each in objects)
    step = 1 if most is None else max(1, -(-total // most))
    usable, before = [], 0
    for each in objects:
        kept = (~each.ignored).nonzero().flatten()
        kept_of_all = kept[(torch.arange(len(kept)) + before) % step == 0]
        before += len(kept)
        boxes = in_cells(each.boxes[kept_of_all], grid)
        usable.append((boxes.to(device), each.labels[kept_of_all].to(device)))
    return usable


def pooled_boxes(map_BDHW: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """The mean of a map within each box, by RoIAlign 1×1 (arXiv 1703.06870): (K, D).

    Args:
        map_BDHW: the maps.
        boxes: of each image, in cells.
    """
    pooled: Tensor = roi_align(
        map_BDHW.float(), regions_of(boxes).to(map_BDHW.device), 1, aligned=True
    )
    return pooled.flatten(1)


class FittedRegions:
    """The features of boxes with one representation."""

    def __init__(self, task: Regions, bank_ND: Tensor, labels_N: Tensor) -> None:
        self._task, self._bank_ND, self._labels_N = task, bank_ND, labels_N
        self._queries: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._groups: list[Tensor] = []

    def observe(self, map_BDHW: Tensor, images: range) -> None:
        """Keeps the pooled features of the boxes of these evaluation images."""
        usable = [self._task.evaluation[i] for i in images]
        self._queries.append(pooled_boxes(map_BDHW, [boxes for boxes, _ in usable]))
        for image, (_, labels) in zip(images, usable, strict=True):
            self._labels.append(labels)
            self._groups.append(self._task.group_N[image].expand(len(labels)))

    def statistics(self) -> Mapping[str, Statistic]:
        """Accuracies of both."""
        queries, labels = torch.cat(self._queries), torch.cat(self._labels)
        group_M, classes = torch.cat(self._groups), self._task.classes
        predicted = {
            "region_knn": knn_predict(self._bank_ND, self._labels_N, queries, classes),
            "region_linear": linear_scores(
                self._bank_ND, self._labels_N, queries, classes
            ).predicted(),
        }
        return {
            name: share((each == labels).cpu().double(), group_M)
            for name, each in predicted.items()
        }


def share(values_M: Tensor, group_M: Tensor) -> Statistic:
    """The mean of values over those whose group is used."""
    return lambda kept_G: float(values_M[kept_G[group_M]].mean())
