"""The inputs of a training step besides the weights, all drawn before it.

Shapes: B images, C = 3 channels, S image side.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from headsearch.models.head_batches import HeadBatches


@dataclass(frozen=True)
class StepInputs:
    """All inputs of a step besides the weights. They are drawn first, so that it can be recorded.

    Attributes:
        crops_BCSS: 2B crops: the first crops of all images, then the second crops.
        temperature: the temperature of the objective's teacher, a scalar.
        mask_BHW: the patches that are hidden from the student; None if the objective hides none.
        head_batches: the crops that each head sees; None if each sees all of them.
        local_MCss: the local crops that the student's base sees besides, M of them; None without
            multi-crop.
    """

    crops_BCSS: Tensor
    temperature: Tensor
    mask_BHW: Tensor | None
    head_batches: HeadBatches | None
    local_MCss: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        """All tensors, always in the same order."""
        mask = [] if self.mask_BHW is None else [self.mask_BHW]
        rows = [] if self.head_batches is None else list(self.head_batches.rows.values())
        local = [] if self.local_MCss is None else [self.local_MCss]
        return [self.crops_BCSS, self.temperature, *mask, *rows, *local]

    def clone(self) -> StepInputs:
        """The same inputs, with a copy of every tensor."""
        batches = self.head_batches
        return StepInputs(
            self.crops_BCSS.clone(),
            self.temperature.clone(),
            None if self.mask_BHW is None else self.mask_BHW.clone(),
            None
            if batches is None
            else HeadBatches({name: rows.clone() for name, rows in batches.rows.items()}),
            None if self.local_MCss is None else self.local_MCss.clone(),
        )
