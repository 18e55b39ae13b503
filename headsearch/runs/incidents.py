"""What befalls a search on its way, and how it goes on: a base that diverges, a cohort that does
not fit into memory.

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
TOO_LARGE = "too large for memory"
"""Why a head is set aside that does not fit even alone with the base."""


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
class LearningRateDrop:
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


@dataclass(frozen=True)
class CohortSplit:
    """A cohort did not fit into memory: its heads train in several, from the first weights.

    Attributes:
        cohort: its number; its parts have this and the next, and those that follow move up.
        parts: how many heads each has; one that did not fit alone is set aside.
    """

    cohort: int
    parts: tuple[int, ...]

    def __str__(self) -> str:
        heads = sum(self.parts)
        sizes = " and ".join(map(str, self.parts))
        return (
            f"cohort {self.cohort + 1} does not fit into memory: its {heads} heads train in "
            f"cohorts of {sizes}, each from the base's first weights"
        )


def current_learning_rate(facts: Mapping[str, Any], lr: float) -> float:
    """The peak learning rate that a run has come to, which began with `lr`."""
    lowered = facts.get("lowered")
    return float(lowered[-1]["lr"]) if lowered else lr


def incidents(facts: Mapping[str, Any]) -> Iterator[str]:
    """All that befell a run, a sentence each."""
    for lowering in facts.get("lowered", []):
        yield str(LearningRateDrop(**lowering))
    for split in facts.get("splits", []):
        yield str(CohortSplit(split["cohort"], tuple(split["parts"])))
