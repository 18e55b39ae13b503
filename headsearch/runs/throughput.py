"""How fast a run goes: images a second, seconds spent, time left."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

_KEPT = ("steps_done", "rungs_done", "train_s", "score_s", "step_s")


class Throughput:
    """Clocks of a run, read by whoever shows it.

    Args:
        batch_size: images in a step.
        steps: steps of one cohort.
        rungs: rungs of one cohort, rung 0 not counted.
        cohorts: how many cohorts there will be.
    """

    def __init__(self, batch_size: int, steps: int, rungs: int, cohorts: int) -> None:
        self._batch_size = batch_size
        self._steps, self._rungs, self.cohorts = steps, rungs, cohorts
        self._born = self._mark = time.perf_counter()
        self._steps_done = 0
        self._rungs_done = 0
        self._train_s = 0.0
        self._score_s = 0.0
        self._step_s = 0.0

    def start(self) -> None:
        """Training is about to go on: what passed since the last mark was something else."""
        self._mark = time.perf_counter()

    def trained(self, steps: int) -> None:
        """`steps` steps were done since the last mark, below 0 where some are taken again."""
        passed = time.perf_counter() - self._mark
        self._train_s += passed
        self._steps_done += steps
        if steps > 0:
            self._step_s = passed / steps
        self.start()

    def scored(self) -> None:
        """A rung was scored since the last mark."""
        self._score_s += time.perf_counter() - self._mark
        self._rungs_done += 1
        self.start()

    def undone(self, steps: int, rungs: int) -> None:
        """So many steps and rungs are to be done again; the time they took was spent."""
        self._steps_done -= steps
        self._rungs_done -= rungs

    @property
    def images_per_second(self) -> float:
        """Training images a second, of late: it rises as heads leave."""
        return self._batch_size / self._step_s if self._step_s else 0.0

    @property
    def seconds_left(self) -> float | None:
        """An estimate from the latest steps for this cohort, and the mean ones for the others."""
        if not self._steps_done:
            return None
        done, in_cohort = divmod(self._steps_done, self._steps)
        mean_step_s = self._train_s / self._steps_done
        cohorts_left = self.cohorts - done - (1 if in_cohort else 0)
        steps_left = self._steps - in_cohort if in_cohort else 0
        rungs_left = self.cohorts * (self._rungs + 1) - self._rungs_done
        mean_rung_s = self._score_s / max(1, self._rungs_done)
        return (
            steps_left * self._step_s
            + max(0, cohorts_left) * self._steps * mean_step_s
            + max(0, rungs_left) * mean_rung_s
        )

    def record_of(self) -> dict[str, float]:
        """What the clocks show, for `restore` in another process."""
        kept = {name: getattr(self, f"_{name}") for name in _KEPT}
        return kept | {"wall_s": time.perf_counter() - self._born}

    def restore(self, record: Mapping[str, float]) -> None:
        """Goes on from what the clocks showed; the time between does not count."""
        for name in _KEPT:
            setattr(self, f"_{name}", record[name])
        self._born = time.perf_counter() - record["wall_s"]

    def facts(self) -> dict[str, Any]:
        """Wall time and throughput so far, for the report."""
        images = self._steps_done * self._batch_size
        return {
            "wall_s": time.perf_counter() - self._born,
            "score_s": self._score_s,
            "images_per_second": images / self._train_s if self._train_s else None,
        }
