"""The names of scores on data of their own: dense tasks and further tasks (`--tasks`).

They are columns of the tables, and `--rank-by` takes their means.
"""

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
"""Dense scores of a representation, as shares of 1, and what they measure."""

TASK_SCORES: dict[str, str] = {
    "task_knn": "accuracy of k-NN on a further task",
    "task_linear": "accuracy of a linear probe on a further task",
    "task_spearman": "Spearman's ρ of the cosine of pairs of texts with their scores",
}
"""Scores of a further task; tasks.csv has a row for each task."""
TASK_MEAN = "task_mean"

OTHER_DATA_SCORES: dict[str, str] = {
    **DENSE_SCORES,
    TASK_MEAN: "mean over the further tasks",
}
"""Scores that are columns of the tables of all runs.

Empty where the data do not give them. Runs without `--dense-data` or `--tasks` and earlier runs
lack the columns; they are read as empty.
"""

OF_CLASS = "/"
"""Between the name of a score and the class or the task that it is the score of."""

BASE_OTHER_DATA = tuple(f"base_{name}" for name in OTHER_DATA_SCORES)
"""Columns of rungs.csv: those of the base."""

TASKS = "tasks"

OTHER_DATA_RANKINGS: dict[str, tuple[str, ...]] = {
    "segmentation": ("seg_knn", "seg_linear"),
    "regions": ("region_knn", "region_linear"),
    "detection": ("det_ap50",),
    "masks": ("mask_iou",),
    TASKS: (TASK_MEAN,),
}
"""What `--rank-by` takes: the mean of these scores, on the samples that choose."""


def missing_for(rank_by: str, available: Collection[str]) -> bool:
    """Whether the data do not give the scores that a ranking goes by."""
    return not set(OTHER_DATA_RANKINGS.get(rank_by, ())) <= set(available)
