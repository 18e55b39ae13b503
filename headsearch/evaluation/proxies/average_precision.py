"""COCO's average precision and recall of boxes, with crowds; for one class or several.

The rules are those of pycocotools' `COCOeval` (area range `all`), against which it is tested.

Shapes: K detections and L objects of an image, T thresholds of IoU, G groups of images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

THRESHOLDS = torch.arange(10, dtype=torch.float64) * 0.05 + 0.5
"""Of IoU: 0.50, 0.55, … 0.95."""
RECALLS = np.linspace(0, 1, 101)
"""The recalls at which precision is read."""
MOST_DETECTIONS = 100
"""Of an image, and of a class."""


def intersections(boxes_K4: Tensor, others_L4: Tensor) -> Tensor:
    """The areas that boxes share: (K, L)."""
    begin = torch.maximum(boxes_K4[:, None, :2], others_L4[None, :, :2])
    end = torch.minimum(boxes_K4[:, None, 2:], others_L4[None, :, 2:])
    return (end - begin).clamp_min(0).prod(-1)


def areas(boxes_K4: Tensor) -> Tensor:
    """(K,)."""
    return (boxes_K4[:, 2] - boxes_K4[:, 0]) * (boxes_K4[:, 3] - boxes_K4[:, 1])


def overlap(boxes_K4: Tensor, truth_L4: Tensor, crowd_L: Tensor) -> Tensor:
    """IoU, or for crowds the share of the detection that lies in the crowd: (K, L)."""
    shared_KL = intersections(boxes_K4.double(), truth_L4.double())
    own_K1, truth_L = areas(boxes_K4.double())[:, None], areas(truth_L4.double())
    union_KL = torch.where(crowd_L, own_K1, own_K1 + truth_L - shared_KL)
    return shared_KL / union_KL.clamp_min(1e-12)


@dataclass
class Matches:
    """The detections of all images, matched with the objects.

    Attributes:
        scores, right, ignored, groups: of the detections of each image: (K,), (T, K), (T, K) and
            the group of the image.
        objects: the number of objects that count, by group.
    """

    scores: list[NDArray[np.float64]] = field(default_factory=list)
    right: list[NDArray[np.bool_]] = field(default_factory=list)
    ignored: list[NDArray[np.bool_]] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    objects: dict[int, int] = field(default_factory=dict)

    def add(
        self, boxes_K4: Tensor, scores_K: Tensor, truth_L4: Tensor, ignored_L: Tensor, group: int
    ) -> None:
        """Matches the detections of one image, best first, with its objects.

        At each threshold a detection takes the free object with the largest overlap; an ignored one
        only if no other fits, and then the detection counts neither as right nor as wrong.
        """
        order = scores_K.argsort(descending=True, stable=True)[:MOST_DETECTIONS]
        truth_first = ignored_L.long().argsort(stable=True)
        truth_L4, ignored_L = truth_L4[truth_first], ignored_L[truth_first]
        overlap_KL = np.zeros((len(order), len(truth_L4)))
        if overlap_KL.size:
            overlap_KL = overlap(boxes_K4[order], truth_L4, ignored_L).numpy()
        right, ignored = _matched(overlap_KL, ignored_L.numpy())
        self.scores.append(scores_K[order].double().numpy())
        self.right.append(right)
        self.ignored.append(ignored)
        self.groups.append(group)
        counted = len(ignored_L) - int(ignored_L.sum())
        self.objects[group] = self.objects.get(group, 0) + counted

    def average_precision(self, kept_G: Tensor, threshold: int = 0) -> float:
        """The mean precision at 101 recalls, on the images of some groups; NaN without objects.

        Args:
            kept_G: which groups are used.
            threshold: the index of the IoU in `THRESHOLDS`.
        """
        objects, kept = self._kept(kept_G)
        if not objects:
            return math.nan
        if not kept:
            return 0.0
        scores = np.concatenate([self.scores[i] for i in kept])
        right, ignored = (
            np.concatenate([each[i][threshold] for i in kept])
            for each in (self.right, self.ignored)
        )
        order = np.argsort(-scores, kind="mergesort")
        order = order[~ignored[order]]
        hits = right[order].cumsum()
        recall = hits / objects
        precision = hits / np.maximum(np.arange(1, len(order) + 1), 1)
        # The largest precision at this recall or a higher one.
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        place = np.searchsorted(recall, RECALLS, side="left")
        return float(np.append(envelope, 0.0)[np.minimum(place, len(envelope))].mean())

    def average_recall(self, kept_G: Tensor) -> float:
        """The share of objects that are found, mean over the thresholds; NaN without objects."""
        objects, kept = self._kept(kept_G)
        found = sum(float((self.right[i] & ~self.ignored[i]).sum()) for i in kept)
        return found / len(THRESHOLDS) / objects if objects else math.nan

    def _kept(self, kept_G: Tensor) -> tuple[int, list[int]]:
        objects = sum(count for group, count in self.objects.items() if bool(kept_G[group]))
        return objects, [i for i, group in enumerate(self.groups) if bool(kept_G[group])]


def _matched(
    overlap_KL: NDArray[np.float64], ignored_L: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which detections match an object, and which one that is ignored: (T, K) each."""
    thresholds = np.minimum(THRESHOLDS.numpy(), 1 - 1e-10)
    detections, objects = overlap_KL.shape
    right = np.zeros((len(thresholds), detections), dtype=bool)
    ignored = np.zeros_like(right)
    if not overlap_KL.size:
        return right, ignored
    counted = ~ignored_L
    free_TL = np.ones((len(thresholds), objects), dtype=bool)
    every = np.arange(len(thresholds))
    for detection in np.flatnonzero(overlap_KL.max(1) >= thresholds[0]):
        overlap_L = overlap_KL[detection]
        fits_TL = free_TL & (overlap_L >= thresholds[:, None])
        first_TL = fits_TL & counted
        # Objects that count come first; of equal overlaps the last one wins, as in pycocotools.
        use_TL = np.where(first_TL.any(1, keepdims=True), first_TL, fits_TL)
        value_TL = np.where(use_TL, overlap_L, -1.0)[:, ::-1]
        best_T = objects - 1 - value_TL.argmax(1)
        any_T = use_TL.any(1)
        right[:, detection] = any_T & counted[best_T]
        ignored[:, detection] = any_T & ~counted[best_T]
        # Crowds can be matched again and again.
        taken_T = any_T & counted[best_T]
        free_TL[every[taken_T], best_T[taken_T]] = False
    return right, ignored


def mean_average_precision(
    of_classes: Sequence[Matches], kept_G: Tensor, threshold: int = 0
) -> float:
    """The mean average precision over the classes that have objects."""
    values = [each.average_precision(kept_G, threshold) for each in of_classes]
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
