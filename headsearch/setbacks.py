"""What befalls a search on its way, and how it goes on: a base that diverges.

Each is kept in the run's facts as it happens, and told in the same words on the console and in the
report. Cohorts count from 0 here, and from 1 in the words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

LOWERINGS = 3
"""How often in a run the learning rate is lowered before a base that diverges ends it…"""
LOWERED_TO = 0.5
"""… each time to this share of what it was."""


class DivergedError(Exception):
    """The base's own features or gradients are not finite: its heads cannot go on either.

    Attributes:
        seed: under which.
        step: how many steps were sound.
    """

    def __init__(self, seed: int, step: int) -> None:
        super().__init__(f"the base diverged at step {step} under seed {seed}")
        self.seed, self.step = seed, step


@dataclass(frozen=True)
class Lowering:
    """The base diverged: its cohort went back, and goes on with a lower learning rate.

    Attributes:
        cohort: which.
        rung: the one that it trained toward.
        seed: under which it diverged; the cohort goes back under all.
        step: at which it diverged.
        back_to: the step that it went back to.
        lr: the peak learning rate from there on, in later cohorts too.
    """

    cohort: int
    rung: int
    seed: int
    step: int
    back_to: int
    lr: float

    def __str__(self) -> str:
        return (
            f"the base diverged at step {self.step} of cohort {self.cohort + 1} (seed "
            f"{self.seed}): back to step {self.back_to}, with the learning rate lowered to "
            f"{self.lr:g} from there on"
        )


def learning_rate_now(facts: Mapping[str, Any], lr: float) -> float:
    """The peak learning rate that a run has come to, which began with `lr`."""
    lowered = facts.get("lowered")
    return float(lowered[-1]["lr"]) if lowered else lr


def setbacks(facts: Mapping[str, Any]) -> Iterator[str]:
    """All that befell a run, a sentence each."""
    for lowering in facts.get("lowered", []):
        yield str(Lowering(**lowering))
