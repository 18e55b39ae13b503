"""SimSiam: BYOL whose teacher is the student itself, without gradient.

Source: Chen and He, *Exploring Simple Siamese Representation Learning*, CVPR 2021, arXiv
2011.10566. Their negative cosine and BYOL's 2 − 2 cos differ by a constant and a factor of 2, which
AdamW does not see. In the heterogeneous form (`predicting.py`) the base predicts the projection of
the head, as it is at this step.

The loss is lowest at a collapse to a constant, as in BYOL; the predictor and the stopped gradient
keep training from it (section 4.1 there).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headsearch.training.objectives.byol import Byol


@dataclass(frozen=True)
class SimSiam(Byol):
    """SimSiam in its heterogeneous form; published widths are 2048, and 512 in the predictor."""

    has_teacher: ClassVar[bool] = False
