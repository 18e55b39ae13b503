"""Semantic segmentation on frozen maps: k-NN over patches and a linear probe, scored by mIoU.

Protocol after Balažević et al. 2023, *Towards In-Context Scene Understanding* (arXiv 2306.01667,
"Hummingbird"): the memory holds patches with the class histogram of their pixels, a query patch
takes the mean histogram of its neighbours, and scores are upsampled to the mask.

Shapes: B images, D width, H × W the grid, P = H·W, N patches of the memory, C classes, G groups,
h × w a mask, i × j its pixels that are compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from headsearch.data.dense import VOID
from headsearch.data.dense.images import GROUPS, evenly_spaced
from headsearch.evaluation.proxies.dense_task import Statistic
from headsearch.evaluation.proxies.grids import normalised, patch_histograms, vectors
from headsearch.evaluation.proxies.linear import fit_softmax

NEIGHBOURS, TEMPERATURE = 30, 0.02
"""Those of Hummingbird: k = 30, softmax of cosine similarity / 0.02."""
L2 = 1e-4
"""Of the linear probe. With 1e-2, the value for whole images, mIoU is 2 to 3 points lower."""
MAX_ITERATIONS = 60
"""Of L-BFGS; further ones change mIoU by less than 0.1 points."""
CHUNK = 512
"""Patches that are compared with the memory at a time: 16 MiB of similarities on a CPU."""
PIXELS_A_PATCH = 6
"""Of a mask, so many pixels along each side of a patch are compared at least, if it has them."""
LEAST_IMAGES = 4 * GROUPS
"""At least so many images are scored, however fine the grid is."""


class Segmentation:
    """k-NN and linear segmentation for one data set and grid.

    Args:
        train: masks (h, w) of the training images, `VOID` where pixels do not count.
        evaluation: those of the evaluation images.
        group_N: the group of each evaluation image.
        classes: C.
        grid: H × W.
        samples: the most patches of the memory.
        device: of the features.
        queries: about the most patches that are scored; None for all. See `scored_images`.
    """

    columns: tuple[str, ...] = ("seg_knn", "seg_linear")

    def __init__(
        self,
        train: Sequence[Tensor],
        evaluation: Sequence[Tensor],
        group_N: Tensor,
        classes: int,
        grid: tuple[int, int],
        samples: int,
        device: torch.device,
        queries: int | None = None,
    ) -> None:
        self.evaluation, self.group_N, self.classes = evaluation, group_N, classes
        self.grid, self.device = grid, device
        self.scored_N = scored_images(len(evaluation), grid, queries)
        generator = torch.Generator().manual_seed(0)
        each = max(1, samples // max(1, len(train)))
        self.taken: list[Tensor] = []
        targets: list[Tensor] = []
        for mask in train:
            histograms_CP = patch_histograms(mask, classes, grid).flatten(1)
            taken = sampled_patches(histograms_CP, each, generator)
            self.taken.append(taken.to(device))
            targets.append(normalised(histograms_CP, 0)[0][:, taken].T)
        self.targets_NC = torch.cat(targets).to(device)

    def rows(self, map_BDHW: Tensor, images: range) -> Tensor:
        """The sampled patches of these training images."""
        patches_BPD = vectors(map_BDHW)
        return torch.cat([p[self.taken[i]] for p, i in zip(patches_BPD, images, strict=True)])

    def fit(self, rows_ND: Tensor) -> FittedSegmentation:
        """Fits the linear probe; k-NN keeps the rows."""
        return FittedSegmentation(self, rows_ND)


def scored_images(images: int, grid: tuple[int, int], queries: int | None) -> Tensor:
    """Which evaluation images are segmented: (N,) bool, evenly spaced where there are too many.

    Comparing patches with the memory costs the most of all dense scores, and the number of patches
    grows with the square of the grid's side. Neighbours may be frames of one video, so that every
    second image tells nearly as much as all.

    Args:
        images: N.
        grid: H × W.
        queries: about the most patches; None for all images.
    """
    scored_N = torch.ones(images, dtype=torch.bool)
    if queries is not None:
        most = max(LEAST_IMAGES, queries // (grid[0] * grid[1]))
        scored_N[:] = False
        scored_N[list(evenly_spaced(images, most))] = True
    return scored_N


def sampled_patches(histograms_CP: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The patches of an image that the memory keeps, in ascending order; void ones never.

    Those with the smallest (Σ over the classes in the patch of the share of the image's patches
    that have the class) · U(0, 1), which prefers patches of rare classes (Balažević et al. 2023).
    """
    present_CP = histograms_CP > 0
    counted_P = present_CP.any(0)
    frequency_C = present_CP.float().sum(1) / counted_P.sum().clamp_min(1)
    draw_P = torch.rand(histograms_CP.shape[1], generator=generator)
    order_P = (present_CP.float().T @ frequency_C) * draw_P
    order_P[~counted_P] = math.inf
    kept = order_P.argsort(stable=True)[: min(count, int(counted_P.sum()))]
    return kept.sort().values


class FittedSegmentation:
    """k-NN and linear probe of one representation, and their confusion matrices by group."""

    def __init__(self, task: Segmentation, rows_ND: Tensor) -> None:
        self._task = task
        self._memory_ND = F.normalize(rows_ND.float(), dim=1)
        present_C = task.targets_NC.sum(0) > 0
        targets_CN = task.targets_NC[:, present_C].T
        fit = fit_softmax(rows_ND, targets_CN, L2, MAX_ITERATIONS, coarse=True)
        matrix, offset = fit.affine()
        # A class that the memory lacks is never predicted.
        self._matrix_CD = matrix.new_zeros(task.classes, matrix.shape[1])
        self._offset_C = matrix.new_full((task.classes,), -1e4)
        self._matrix_CD[present_C], self._offset_C[present_C] = matrix, offset
        groups = int(task.group_N.max()) + 1
        shape = (groups, task.classes, task.classes)
        self.confusion_GCC = {
            name: torch.zeros(shape, dtype=torch.int64) for name in ("seg_knn", "seg_linear")
        }

    def observe(self, map_BDHW: Tensor, images: range) -> None:
        """Segments those of these evaluation images that are scored, and counts pixels."""
        scored_B = self._task.scored_N[images.start : images.stop]
        numbers = [i for i, scored in zip(images, scored_B.tolist(), strict=True) if scored]
        if not numbers:
            return
        map_BDHW = map_BDHW[scored_B.to(map_BDHW.device)]
        patches_BPD = vectors(map_BDHW)
        flat = patches_BPD.flatten(0, 1)
        scores = {
            "seg_knn": self._votes(flat),
            "seg_linear": flat @ self._matrix_CD.T + self._offset_C,
        }
        for name, scores_MC in scores.items():
            maps_BCHW = scores_MC.reshape(len(numbers), *map_BDHW.shape[2:], -1).permute(0, 3, 1, 2)
            for image, map_CHW in zip(numbers, maps_BCHW, strict=True):
                self._count(name, image, map_CHW)

    def _votes(self, patches_MD: Tensor) -> Tensor:
        """The weighted histograms of the nearest patches of the memory: (M, C)."""
        task, votes = self._task, []
        k = min(NEIGHBOURS, len(self._memory_ND))
        for chunk in patches_MD.split(CHUNK):
            similarity_MN = F.normalize(chunk, dim=1) @ self._memory_ND.T
            similarity_MK, nearest_MK = similarity_MN.topk(k, dim=1, sorted=False)
            weights_MK = (similarity_MK / TEMPERATURE).softmax(1)
            votes.append(torch.einsum("mk,mkc->mc", weights_MK, task.targets_NC[nearest_MK]))
        return torch.cat(votes)

    def _count(self, name: str, image: int, map_CHW: Tensor) -> None:
        task = self._task
        confusion = confusion_matrix(map_CHW, task.evaluation[image].to(map_CHW.device))
        self.confusion_GCC[name][task.group_N[image]] += confusion.cpu()

    def statistics(self) -> Mapping[str, Statistic]:
        """mIoU of both."""
        return {name: _miou_of(matrices) for name, matrices in self.confusion_GCC.items()}


def confusion_matrix(map_CHW: Tensor, mask_hw: Tensor) -> Tensor:
    """Counts of pixels by true class and predicted class, void left out: (C, C) int64.

    Scores are upsampled to the mask, bilinear, corners not aligned; the largest one wins. Of a mask
    that is much finer than the grid, a lattice of pixels is compared: every s-th pixel of every
    s-th row, the largest s that leaves `PIXELS_A_PATCH` pixels along the sides of a patch.
    """
    classes, height, width = map_CHW.shape
    h, w = mask_hw.shape
    step = max(1, min(h // height, w // width) // PIXELS_A_PATCH)
    rows_iH, columns_jW = (
        _upsampling(pixels, cells, step).to(map_CHW.device)
        for pixels, cells in ((h, height), (w, width))
    )
    predicted_ij = (rows_iH @ map_CHW.float() @ columns_jW.T).max(0).indices  # faster than argmax
    truth_ij = mask_hw[step // 2 :: step, step // 2 :: step].long()
    truth_ij = truth_ij.where(truth_ij != VOID, classes)  # one more row, which is left out
    pairs = (truth_ij * classes + predicted_ij).flatten()
    counts = torch.bincount(pairs, minlength=(classes + 1) * classes)
    return counts.view(classes + 1, classes)[:classes]


@lru_cache(maxsize=64)
def _upsampling(pixels: int, cells: int, step: int) -> Tensor:
    """What every `step`-th pixel of a side takes of each cell, bilinear: (i, cells).

    Upsampling by two small products of matrices is several times as fast as `F.interpolate`.
    """
    centres = (torch.arange(pixels, dtype=torch.float64)[step // 2 :: step] + 0.5) / pixels
    places = (centres * cells - 0.5).clamp(0, cells - 1)
    return (1 - (places[:, None] - torch.arange(cells)).abs()).clamp_min(0).float()


def miou(confusion_CC: Tensor, among_C: Tensor | None = None) -> float:
    """The mean over classes of TP / (TP + FP + FN).

    Args:
        confusion_CC: pixels by true class (rows) and predicted class.
        among_C: the classes to average over; by default those that occur in the ground truth.
    """
    matrix = confusion_CC.double()
    hits, truth, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    among_C = truth > 0 if among_C is None else among_C
    union = truth + predicted - hits
    # A class that a left-out group had alone, and that is not predicted, is not defined.
    among_C = among_C & (union > 0)
    return float((hits[among_C] / union[among_C]).mean()) if bool(among_C.any()) else math.nan


def _miou_of(confusion_GCC: Tensor) -> Statistic:
    return lambda kept_G: miou(confusion_GCC[kept_G].sum(0))


def ceiling(
    evaluation: Sequence[Tensor], classes: int, grid: tuple[int, int], kept_N: Tensor
) -> float:
    """The mIoU if the histogram of every patch were known: what the grid itself allows.

    Args:
        evaluation: the masks.
        classes: C.
        grid: H × W.
        kept_N: which images to use.
    """
    total = torch.zeros(classes, classes, dtype=torch.int64)
    for mask, kept in zip(evaluation, kept_N.tolist(), strict=True):
        if kept:
            histograms = normalised(patch_histograms(mask, classes, grid), 0)[0]
            total += confusion_matrix(histograms, mask)
    return miou(total)
