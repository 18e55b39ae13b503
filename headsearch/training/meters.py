"""Meters: sums of losses and flags for non-finite values, kept on the device until they are read.

An *owner* is the base or a head: each has a meter of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from headsearch.models.network import BASE


@dataclass(frozen=True)
class OwnerStats:
    """The reading of one owner's meter.

    Attributes:
        loss: the mean loss over the steps that count; NaN if none counts.
        steps: the number of steps that count: those before the first non-finite step.
        finite: whether the owner's loss and gradients were finite in that first non-finite step.
    """

    loss: float
    steps: int
    finite: bool


@dataclass(frozen=True)
class StepStats:
    """The readings of all meters since the last read.

    Attributes:
        owners: the reading of each owner's meter, by name.
        base_sound: whether the base's features were finite. With joint coupling, a diverged head
            makes the base's gradients non-finite too. The features stay finite, because no update
            is made from such gradients.
    """

    owners: dict[str, OwnerStats]
    base_sound: bool

    @property
    def blamed(self) -> set[str]:
        """Heads whose loss or gradients were not finite in the first step that does not count."""
        return {owner for owner, stats in self.owners.items() if owner and not stats.finite}

    @property
    def steps(self) -> int:
        """The number of steps since the last read that changed the weights."""
        return self.owners[BASE].steps


class Meter:
    """Sums of one owner's losses and flags, kept on the device so that no step waits for it."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, device=device)  # loss, steps that count, times to blame

    def add(self, loss: Tensor, finite: Tensor, before: Tensor, sound: Tensor) -> None:
        """Adds a step. All arguments are scalars on the device.

        Args:
            loss: the owner's loss.
            finite: 1 if this owner's loss and gradients are finite, else 0.
            before: 1 if everything was finite in all earlier steps since the last read, else 0.
            sound: 1 if everything still is, so that this step counts, else 0.
        """
        kept = torch.where(sound.bool(), loss, 0.0).float()
        self.sums += torch.stack([kept, sound, before * (1 - finite)])

    def read(self) -> OwnerStats:
        """The reading since the last one. Waits for the device and resets the sums."""
        loss, steps, to_blame = self.sums.tolist()
        self.sums.zero_()
        return OwnerStats(loss / steps if steps else math.nan, int(steps), to_blame == 0)
