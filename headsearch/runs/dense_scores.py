"""The names of dense scores: columns of the tables, and what `--rank-by` takes from them."""

from __future__ import annotations

from collections.abc import Collection

DENSE_SCORES: dict[str, str] = {
    "seg_knn": "mIoU of segmentation by the nearest patches",
    "seg_linear": "mIoU of segmentation by a linear probe on patches",
    "region_knn": "accuracy of k-NN on the pooled features of true boxes",
    "region_linear": "accuracy of a linear probe on the pooled features of true boxes",
    "det_ap50": "average precision at IoU 0.5 of a linear detector, whatever the class",
    "det_ar100": "average recall of its 100 best detections, over IoU 0.5 to 0.95",
    "mask_iou": "mean IoU of masks that a linear probe finds within true boxes",
}
"""Dense scores of a representation, as shares of 1: their columns, and what they measure.

Empty where the data do not give them. Runs without `--dense-data` and earlier runs lack the
columns; they are read as empty.
"""

OF_CLASS = "/"
"""Between the name of a score and the class that it is the score of: dense.csv has a column."""

BASE_DENSE = tuple(f"base_{name}" for name in DENSE_SCORES)
"""Columns of rungs.csv: those of the base."""

DENSE_RANKINGS: dict[str, tuple[str, ...]] = {
    "segmentation": ("seg_knn", "seg_linear"),
    "regions": ("region_knn", "region_linear"),
    "detection": ("det_ap50",),
    "masks": ("mask_iou",),
}
"""What `--rank-by` takes: the mean of these scores, on the images that choose."""


def missing_for(rank_by: str, available: Collection[str]) -> bool:
    """Whether the dense data do not give the scores that a ranking goes by."""
    return not set(DENSE_RANKINGS.get(rank_by, ())) <= set(available)
