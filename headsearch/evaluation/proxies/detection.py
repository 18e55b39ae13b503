"""Where objects are: a dense detector with one linear layer, fitted in closed form, scored by AP.

The targets are those of FCOS (Tian et al. 2019, arXiv 1904.01355): a cell predicts whether it is
near the centre of an object, the distances to the four sides of its box, and centreness.

Shapes: B images, D width, H × W the grid, P = H·W cells, K objects, N cells of the training images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms

from headsearch.data.dense import Objects
from headsearch.evaluation.proxies.average_precision import MOST_DETECTIONS, Matches
from headsearch.evaluation.proxies.dense_task import Statistic
from headsearch.evaluation.proxies.grids import cell_centres, in_cells, vectors
from headsearch.evaluation.proxies.grouped_scores import reporting
from headsearch.evaluation.proxies.linear import fit_softmax, standardisation
from headsearch.runs.other_data import OF_CLASS

RADIUS = 1.5
"""Cells within this distance of a box's centre, along both axes, are positive (FCOS)."""
NMS_OVERLAP = 0.6
"""Of boxes with a larger IoU the best one is kept (FCOS)."""
L2 = 1e-3
"""Of the logistic regression; the ridge regression has the same per row."""
MAX_ITERATIONS = 40
LEAST_BOXES = 20
"""A class has a score of its own from so many boxes on, both of the training images and of those
that are reported on."""
LEAST_DISTANCE = 0.05
"""Distances to the sides of a box are at least so many cells, so that their logarithm is finite."""


@dataclass(frozen=True)
class CellTargets:
    """What the cells of an image should predict.

    Attributes:
        object_P: the index of the object of each cell; −1 for background, −2 for cells that do not
            count because they lie in a crowd.
        distances_P4: distances to the left, upper, right and lower side, in cells.
        centreness_P: √(min(l, r) / max(l, r) · min(t, b) / max(t, b)), 1 at the centre of a box.
    """

    object_P: Tensor
    distances_P4: Tensor
    centreness_P: Tensor


def cell_targets(boxes_K4: Tensor, ignored_K: Tensor, grid: tuple[int, int]) -> CellTargets:
    """The targets of all cells of an image.

    A cell is positive for a box if its centre lies in the box and within `RADIUS` cells of the
    box's centre. Where boxes compete, the smaller one wins.

    Args:
        boxes_K4: in cells.
        ignored_K: crowds and difficult objects.
        grid: H × W.
    """
    centres_P2 = cell_centres(grid)
    before_PK2 = centres_P2[:, None] - boxes_K4[None, :, :2]
    after_PK2 = boxes_K4[None, :, 2:] - centres_P2[:, None]
    inside_PK = (torch.minimum(before_PK2, after_PK2) > 0).all(-1)
    near_PK = ((before_PK2 - after_PK2).abs() / 2 <= RADIUS).all(-1)
    size_K = (boxes_K4[:, 2:] - boxes_K4[:, :2]).prod(-1)
    cost_PK = torch.where(inside_PK & near_PK & ~ignored_K, size_K, math.inf)
    object_P = torch.full((len(centres_P2),), -1)
    object_P[(inside_PK & ignored_K).any(1)] = -2
    distances_P4 = torch.zeros(len(centres_P2), 4)
    if len(boxes_K4):
        cost_P, best_P = cost_PK.min(1)
        positive_P = cost_P < math.inf
        object_P[positive_P] = best_P[positive_P]
        chosen = torch.arange(len(centres_P2)), best_P
        distances_P4 = torch.cat([before_PK2[chosen], after_PK2[chosen]], dim=1)
    distances_P4 = distances_P4.clamp_min(LEAST_DISTANCE)
    return CellTargets(object_P, distances_P4, centreness(distances_P4))


def centreness(distances_P4: Tensor) -> Tensor:
    """1 at the centre of a box, 0 at its border (FCOS, eq. 3): (P,)."""
    left, top, right, bottom = distances_P4.unbind(1)
    across = torch.minimum(left, right) / torch.maximum(left, right)
    down = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return (across * down).sqrt()


class Detection:
    """The linear detector for one data set and grid, whatever the class, and for each class.

    A detection is of the class that a further linear layer, fitted on the positive cells, finds the
    likeliest; its score is multiplied by the share of that class.

    Args:
        train, evaluation: the objects of each image.
        group_N: the group of each evaluation image.
        classes: their names.
        grid: H × W.
        samples: the most training cells: up to half of them positive, the others background.
        device: of the features.
    """

    columns: tuple[str, ...] = ("det_ap50", "det_ar100")

    def __init__(
        self,
        train: Sequence[Objects],
        evaluation: Sequence[Objects],
        group_N: Tensor,
        classes: Sequence[str],
        grid: tuple[int, int],
        samples: int,
        device: torch.device,
    ) -> None:
        self.evaluation, self.group_N, self.grid = evaluation, group_N, grid
        targets = [cell_targets(in_cells(o.boxes, grid), o.ignored, grid) for o in train]
        object_NP = torch.stack([each.object_P for each in targets])
        generator = torch.Generator().manual_seed(0)
        positive = _some(object_NP >= 0, samples // 2, generator)
        background = _some(object_NP == -1, samples - int(positive.sum()), generator)
        taken_NP = positive | background
        self._taken = [taken.nonzero().flatten().to(device) for taken in taken_NP]
        self.positive_N = positive[taken_NP].to(device)
        distances = torch.stack([each.distances_P4 for each in targets])[positive]
        of_centre = torch.stack([each.centreness_P for each in targets])[positive]
        self.targets_N5 = torch.cat([distances.log(), of_centre[:, None]], dim=1).to(device)
        labels = [o.labels[t.object_P[p]] for o, t, p in zip(train, targets, positive, strict=True)]
        self.labels_N = torch.cat(labels).to(device)
        reported = [o for o, kept in zip(evaluation, reporting(group_N), strict=True) if kept]
        counts = [_boxes(objects, len(classes)) for objects in (train, reported)]
        often = (torch.minimum(*counts) >= LEAST_BOXES).nonzero().flatten().tolist()
        self.scored = {number: classes[number] for number in often} if len(classes) > 1 else {}
        """The classes with scores of their own, by their number."""

    @property
    def possible(self) -> bool:
        """Whether any cell of the training images is positive, and any is background."""
        return bool(self.positive_N.any()) and not bool(self.positive_N.all())

    def rows(self, map_BDHW: Tensor, images: range) -> Tensor:
        """The sampled cells of these training images."""
        cells_BPD = vectors(map_BDHW)
        return torch.cat([c[self._taken[i]] for c, i in zip(cells_BPD, images, strict=True)])

    def fit(self, rows_ND: Tensor) -> FittedDetection:
        """Fits both parts of the detector."""
        return FittedDetection(self, rows_ND)


def _boxes(objects: Sequence[Objects], classes: int) -> Tensor:
    """The number of boxes of each class that count."""
    labels = [each.labels[~each.ignored] for each in objects]
    return torch.bincount(torch.cat(labels), minlength=classes)


def _some(among_NP: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """At most so many of the marked cells, drawn at random: (N, P) bool."""
    places = among_NP.flatten().nonzero().flatten()
    kept = places[torch.randperm(len(places), generator=generator)[:most]]
    some = torch.zeros(among_NP.numel(), dtype=torch.bool)
    some[kept] = True
    return some.view_as(among_NP)


def ridge(rows_ND: Tensor, targets_NT: Tensor, l2: float) -> tuple[Tensor, Tensor]:
    """The minimum of mean squared error + l2·‖W‖² on standardised features, bias free.

    Returns:
        One matrix (D, T) and one offset (T,) for features as they are.
    """
    dtype = torch.float32 if rows_ND.device.type == "mps" else torch.float64
    rows_ND, targets_NT = rows_ND.to(dtype), targets_NT.to(dtype)
    mean_D, std_D = standardisation(rows_ND)
    scaled_ND, mean_T = (rows_ND - mean_D) / std_D, targets_NT.mean(0)
    gram_DD = scaled_ND.T @ scaled_ND / len(rows_ND)
    gram_DD.diagonal().add_(l2)
    matrix_DT = torch.linalg.solve(gram_DD, scaled_ND.T @ (targets_NT - mean_T) / len(rows_ND))
    matrix_DT = matrix_DT / std_D[:, None]
    return matrix_DT.float(), (mean_T - mean_D @ matrix_DT).float()


class FittedDetection:
    """The detector on one representation, and its detections matched with the objects."""

    def __init__(self, task: Detection, rows_ND: Tensor) -> None:
        self._task = task
        is_object_N = task.positive_N.float()
        targets_2N = torch.stack([1 - is_object_N, is_object_N])
        fit = fit_softmax(rows_ND, targets_2N, L2, MAX_ITERATIONS, coarse=True)
        matrix_2D, offset_2 = fit.affine()
        self._weight_D, self._bias = matrix_2D[1] - matrix_2D[0], offset_2[1] - offset_2[0]
        objects_ND = rows_ND[task.positive_N]
        self._matrix_D5, self._offset_5 = ridge(objects_ND, task.targets_N5, L2)
        self.matches = Matches()
        self.of_class = {number: Matches() for number in task.scored}
        self._present_C, labels_N = torch.unique(task.labels_N, return_inverse=True)
        if self.of_class:
            targets_CN = F.one_hot(labels_N, len(self._present_C)).T
            fit = fit_softmax(objects_ND, targets_CN, L2, MAX_ITERATIONS, coarse=True)
            self._matrix_CD, self._offset_C = fit.affine()

    def observe(self, map_BDHW: Tensor, images: range) -> None:
        """Detects objects in these evaluation images and matches them."""
        cells_BPD = vectors(map_BDHW)
        logits_BP = cells_BPD @ self._weight_D + self._bias
        regressed_BP5 = cells_BPD @ self._matrix_D5 + self._offset_5
        score_BP = logits_BP.sigmoid() * regressed_BP5[..., 4].clamp(0.0, 1.0)
        boxes_BP4 = boxes_from(regressed_BP5[..., :4], self._task.grid)
        of_images = zip(images, boxes_BP4, score_BP, cells_BPD, strict=True)
        for image, boxes_P4, score_P, cells_PD in of_images:
            kept = nms(boxes_P4, score_P, NMS_OVERLAP)[:MOST_DETECTIONS]
            truth, group = self._task.evaluation[image], int(self._task.group_N[image])
            truth_L4 = in_cells(truth.boxes, self._task.grid)
            boxes_K4, score_K = boxes_P4[kept].cpu(), score_P[kept].cpu()
            self.matches.add(boxes_K4, score_K, truth_L4, truth.ignored, group)
            if not self.of_class:
                continue
            logits_KC = cells_PD[kept] @ self._matrix_CD.T + self._offset_C
            share_K, place_K = logits_KC.softmax(1).max(1)
            class_K, score_K = self._present_C[place_K].cpu(), score_K * share_K.cpu()
            for number, matches in self.of_class.items():
                own_K, own_L = class_K == number, truth.labels == number
                if own_K.any() or own_L.any():
                    matches.add(
                        boxes_K4[own_K], score_K[own_K], truth_L4[own_L], truth.ignored[own_L],
                        group,
                    )  # fmt: skip

    def statistics(self) -> Mapping[str, Statistic]:
        """AP at IoU 0.5 and average recall of 100 detections; AP of each class with many boxes."""
        return {
            "det_ap50": self.matches.average_precision,
            "det_ar100": self.matches.average_recall,
            **{
                f"det_ap50{OF_CLASS}{self._task.scored[number]}": matches.average_precision
                for number, matches in self.of_class.items()
            },
        }


def boxes_from(log_distances_BP4: Tensor, grid: tuple[int, int]) -> Tensor:
    """Boxes in cells from the logarithms of distances to their sides, clipped: (B, P, 4)."""
    height, width = grid
    centres_P2 = cell_centres(grid).to(log_distances_BP4.device)
    distances = log_distances_BP4.clamp(-6, math.log(2 * max(grid))).exp()
    boxes = torch.cat([centres_P2 - distances[..., :2], centres_P2 + distances[..., 2:]], dim=-1)
    limit = torch.tensor([width, height, width, height], device=boxes.device)
    return torch.minimum(boxes.clamp_min(0), limit)
