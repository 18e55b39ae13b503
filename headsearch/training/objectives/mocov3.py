"""MoCo v3: InfoNCE between a student's queries and a momentum teacher's keys, in the batch.

Source: Chen, Xie and He, *An Empirical Study of Training Self-Supervised Vision Transformers*,
ICCV 2021, arXiv 2104.02057. In the heterogeneous form (`predicting.py`) the base's query is
contrasted with the keys of the head's teacher.

It learned faster than DINO in short runs, and slower than SimCLR (results/README.md).

Shapes: B images, P width of the contrasted embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from headsearch.training.objectives.predicting import Predicting

TEMPERATURE = 0.2


@dataclass(frozen=True)
class MocoV3(Predicting):
    """MoCo v3 in its heterogeneous form; published widths are 4096 (hidden) and 256."""

    def compare(self, prediction_BP: Tensor, target_BP: Tensor) -> Tensor:
        queries_BP = F.normalize(prediction_BP, dim=-1)
        keys_BP = F.normalize(target_BP, dim=-1)
        logits_BB = queries_BP @ keys_BP.T / TEMPERATURE
        own = torch.arange(len(logits_BB), device=logits_BB.device)
        return F.cross_entropy(logits_BB, own) * (2 * TEMPERATURE)
