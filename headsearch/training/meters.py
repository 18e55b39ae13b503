"""Losses and health of a cohort's base and heads, kept on the device until they are read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from headsearch.models.network import BASE


@dataclass(frozen=True)
class OwnerStats:
    """What the meter of one owner says.

    Attributes:
        loss: the mean over the steps that count.
        steps: how many count: those before the first that was not finite.
        finite: whether the owner was not to blame for that one.
    """

    loss: float
    steps: int
    finite: bool


@dataclass(frozen=True)
class StepStats:
    """Each owner's loss and health, and whether the base's own features were finite.

    In joint coupling a sick head makes the base's gradients sick as well; its features stay sound,
    since such an update is never made.
    """

    owners: dict[str, OwnerStats]
    base_sound: bool

    @property
    def blamed(self) -> set[str]:
        """Heads whose loss or gradient was not finite in the first step that does not count."""
        return {owner for owner, stats in self.owners.items() if owner and not stats.finite}

    @property
    def steps(self) -> int:
        """How many steps since the read before were taken; later ones changed nothing."""
        return self.owners[BASE].steps


class Meter:
    """Sums of one owner's losses and its health, kept on the device."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, device=device)  # loss, steps that count, times to blame

    def add(self, loss: Tensor, finite: Tensor, before: Tensor, sound: Tensor) -> None:
        """Adds a step.

        Args:
            finite: 1 where loss and gradients of this owner are, else 0.
            before: whether all was finite up to this step.
            sound: whether it still is, and the step counts.
        """
        kept = torch.where(sound.bool(), loss, 0.0).float()
        self.sums += torch.stack([kept, sound, before * (1 - finite)])

    def read(self) -> OwnerStats:
        loss, steps, to_blame = self.sums.tolist()
        self.sums.zero_()
        return OwnerStats(loss / steps if steps else math.nan, int(steps), to_blame == 0)
