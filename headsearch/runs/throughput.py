"""Throughput of a run: images per second, seconds spent, estimated time left."""

from __future__ import annotations

import time
from collections.abc import Mapping

from headsearch.runs.facts import RunFacts

_KEPT = ("steps_done", "rungs_done", "train_s", "score_s", "step_s", "waited_s")
"""Attributes (without their underscore) that `record_of` saves."""


class Throughput:
    """The clocks of a run, for its displays and its report.

    Args:
        batch_size: images per step.
        steps: steps of one cohort.
        rungs: rungs of one cohort, not counting rung 0.
        cohorts: the number of cohorts.

    Attributes:
        waiting_share: the share of the latest steps' time in which training waited for images.
    """

    def __init__(self, batch_size: int, steps: int, rungs: int, cohorts: int) -> None:
        self._batch_size = batch_size
        self._steps, self._rungs, self.cohorts = steps, rungs, cohorts
        self._started = self._mark = time.perf_counter()
        self._steps_done = 0
        self._rungs_done = 0
        self._train_s = 0.0
        self._score_s = 0.0
        self._step_s = 0.0
        self._waited_s = 0.0
        self.waiting_share = 0.0

    def start(self) -> None:
        """Starts the clock of training or scoring; the time since the last mark is not counted."""
        self._mark = time.perf_counter()

    def trained(self, steps: int, waited_s: float = 0.0) -> None:
        """`steps` steps were done since the last mark; below 0 if steps are repeated.

        Args:
            steps: the number of steps.
            waited_s: the seconds of them in which training waited for images.
        """
        passed = time.perf_counter() - self._mark
        self._train_s += passed
        self._steps_done += steps
        self._waited_s += waited_s
        if steps > 0:  # else steps were undone, which says nothing about the speed
            self._step_s = passed / steps
            self.waiting_share = waited_s / passed if passed else 0.0
        self.start()

    def scored(self) -> None:
        """A rung was scored since the last mark."""
        self._score_s += time.perf_counter() - self._mark
        self._rungs_done += 1
        self.start()

    def shorten(self, steps: int, rungs: int) -> None:
        """Every cohort, also the current one, takes no more than so many steps and rungs."""
        self._steps, self._rungs = steps, rungs

    def undone(self, steps: int, rungs: int) -> None:
        """So many steps and rungs will be repeated; the time they took still counts."""
        self._steps_done -= steps
        self._rungs_done -= rungs

    @property
    def images_per_second(self) -> float:
        """Training images per second in the latest steps; it rises when heads are pruned."""
        return self._batch_size / self._step_s if self._step_s else 0.0

    @property
    def seconds_left(self) -> float | None:
        """An estimate of the time left; None before the first step.

        From the latest step time for the current cohort, and the mean step time for later cohorts.
        """
        if not self._steps_done:
            return None
        done, in_cohort = divmod(self._steps_done, self._steps)
        mean_step_s = self._train_s / self._steps_done
        cohorts_left = self.cohorts - done - (1 if in_cohort else 0)
        steps_left = self._steps - in_cohort if in_cohort else 0
        rungs_left = self.cohorts * (self._rungs + 1) - self._rungs_done  # + 1: rung 0
        mean_rung_s = self._score_s / max(1, self._rungs_done)
        return (
            steps_left * self._step_s
            + max(0, cohorts_left) * self._steps * mean_step_s
            + max(0, rungs_left) * mean_rung_s
        )

    def record_of(self) -> dict[str, float]:
        """The state of the clocks, for `restore` in another process."""
        kept = {name: getattr(self, f"_{name}") for name in _KEPT}
        return kept | {"wall_s": time.perf_counter() - self._started}

    def restore(self, record: Mapping[str, float]) -> None:
        """Continues from a recorded state; the time in between does not count."""
        for name in _KEPT:
            setattr(self, f"_{name}", record.get(name, 0.0))  # older records have fewer
        self._started = time.perf_counter() - record["wall_s"]

    def facts(self) -> RunFacts:
        """Wall time and throughput so far, for the report."""
        images = self._steps_done * self._batch_size
        return {
            "wall_s": time.perf_counter() - self._started,
            "score_s": self._score_s,
            "waiting_share": self._waited_s / self._train_s if self._train_s else None,
            "images_per_second": images / self._train_s if self._train_s else None,
        }
