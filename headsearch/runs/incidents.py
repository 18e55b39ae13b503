"""Incidents of a search: its base diverges, a cohort does not fit into memory, it ends early.

They are recorded in the run's facts when they happen, and the console and the report describe them.
Cohorts count from 0 in the records and from 1 in the sentences.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from headsearch.runs.facts import RunFacts

LOWERINGS = 3
"""The number of times a run lowers the learning rate; a base that then still diverges ends it …"""
LOWERED_TO = 0.5
"""… each time to this share of the previous rate."""
TOO_LARGE = "too large for memory"
"""The reason recorded for a head that does not fit into memory even alone with the base."""


class DivergedError(Exception):
    """The base's features or gradients are not finite, so its heads cannot train on either.

    Attributes:
        seed: the seed of the training that diverged.
        step: the number of steps before that with finite values.
    """

    def __init__(self, seed: int, step: int) -> None:
        super().__init__(f"the base diverged at step {step} under seed {seed}")
        self.seed, self.step = seed, step


@dataclass(frozen=True)
class LearningRateDrop:
    """The base diverged: its cohort returned to an earlier step with a lower learning rate.

    Attributes:
        cohort: its number.
        rung: the rung that it was training towards.
        seed: the seed under which it diverged; the cohort returns under all seeds.
        step: the step at which it diverged.
        back_to: the step that it returned to.
        lr: the peak learning rate from there on, also in later cohorts.
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
    """A cohort did not fit into memory: its heads train in several cohorts from the start.

    Attributes:
        cohort: its number; its parts get this and the next numbers, and later cohorts move up.
        parts: the number of heads of each part; a head that does not fit even alone is set aside.
    """

    cohort: int
    parts: tuple[int, ...]

    def __str__(self) -> str:
        heads = sum(self.parts)
        sizes = " and ".join(map(str, self.parts))
        return (
            f"cohort {self.cohort + 1} does not fit into memory: its {heads} heads train in "
            f"cohorts of {sizes}, each from the base's initial weights"
        )


@dataclass(frozen=True)
class Settled:
    """The order of the heads had settled, so the search ended before its last rung.

    Attributes:
        rung: the rung at which it ended.
        of: the last rung that was planned.
        step: the number of steps up to there.
        agreement: Kendall's τ of the order of the heads there with that at the rung before.
    """

    rung: int
    of: int
    step: int
    agreement: float

    def __str__(self) -> str:
        return (
            f"stopped at rung {self.rung} of {self.of}: the order of the heads has settled "
            f"(Kendall's τ {self.agreement:.2f} with that at rung {self.rung - 1})"
        )


def current_learning_rate(facts: RunFacts, lr: float) -> float:
    """The peak learning rate that a run has reached, which began with `lr`."""
    lowered = facts.get("lowered")
    return float(lowered[-1]["lr"]) if lowered else lr


def incidents(facts: RunFacts) -> Iterator[str]:
    """The incidents of a run, one sentence each."""
    for lowering in facts.get("lowered", []):
        yield str(LearningRateDrop(**lowering))
    for split in facts.get("splits", []):
        yield str(CohortSplit(split["cohort"], tuple(split["parts"])))
    if settled := facts.get("settled"):
        yield str(Settled(**settled))
