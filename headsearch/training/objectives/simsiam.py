"""SimSiam: BYOL without an EMA teacher; the student's detached projections are the targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headsearch.training.objectives.byol import Byol


@dataclass(frozen=True)
class SimSiam(Byol):
    """SimSiam in its heterogeneous form.

    Source: Chen and He, *Exploring Simple Siamese Representation Learning*, CVPR 2021,
    https://arxiv.org/abs/2011.10566.

    Formula: that of `Byol`, 2 − 2 · mean cos(p, t), where t is the student's projection, detached.
    The paper's negative cosine differs from it by a constant and a factor of 2, to which AdamW is
    invariant.

    Shapes: `compare` takes two tensors (B, P), predictions and targets.

    Where heads enter: the base predicts the projection of the head at the same step (see
    `Predicting`).

    The loss is lowest at a collapse to a constant, as in BYOL. The predictor and the stopped
    gradient keep training away from it (section 4.1 of the paper).

    Arguments are those of `Predicting`. Published sizes: hidden 2048, or 512 in
    the predictor, and width 2048.
    """

    has_teacher: ClassVar[bool] = False
