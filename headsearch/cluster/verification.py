"""A verification whose solo runs train on an engine: `headsearch verify --engine`."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from headsearch.cluster.attempts import RUN
from headsearch.cluster.driver import Driver, DriverEvent, Job
from headsearch.cluster.engine import Engine, Message
from headsearch.cluster.plan import write_first_weights
from headsearch.cluster.search import ATTEMPTS, remove_attempts, written_into
from headsearch.config.recipes import find_recipe
from headsearch.config.settings import resolve
from headsearch.pretraining.solo_directory import Solo
from headsearch.pretraining.verification import Verification
from headsearch.runs.directory import hold
from headsearch.runs.observers import Observers
from headsearch.text import counted
from headsearch.training.base_plan import plan_of_run
from headsearch.training.objectives import make_objective


class EngineVerification:
    """The solo runs of a verification, each of which is a job of a driver.

    Args:
        verification: which solo runs there are.
        engine: the engine.
        grace: as that of `Driver`.

    Attributes:
        stop: set it to stop; the tasks write a snapshot each.
        failures: the solo runs that failed, and why, one line each.
    """

    def __init__(self, verification: Verification, engine: Engine, *, grace: float) -> None:
        self.verification, self.engine, self.grace = verification, engine, grace
        self.stop = threading.Event()
        self.failures: list[str] = []
        self._solos: dict[str, Solo] = {}

    @property
    def run_directory(self) -> Path:
        """The run directory of the search."""
        return self.verification.run_directory

    @property
    def complete(self) -> bool:
        """Whether all solo runs have ended, or failed for good."""
        ended = sum(solo.scores() is not None for solo in self.verification.solos)
        return ended + len(self.failures) == len(self.verification.solos)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is going to run, one line each."""
        machines = counted(len(self.engine.machines()), "machine")
        return (*self.verification.notes[:-1], f"on {machines}")

    def run(self, *observers: Callable[[DriverEvent], None]) -> None:
        """Trains the solo runs that have not ended, and writes solo.csv and gains after each.

        Args:
            observers: called with every event.

        Raises:
            UserError: the engine is gone, or the run directory cannot be written.
        """
        all_observers = Observers(observers, self.stop)
        lock = hold(self.run_directory)
        try:
            with written_into(self.run_directory, "the same command again"):
                (self.run_directory / "solo").mkdir(exist_ok=True)
                jobs = self._jobs()
                driver = Driver(self.engine, self.grace, self._accept, all_observers.notify)
                driver.run(jobs, self.stop)
                self.verification.write()
        finally:
            lock.release()
        self.failures += [f"{job.name} {job.reason}" for job in jobs if job.state == "set aside"]
        all_observers.raise_error()

    def _jobs(self) -> list[Job]:
        waiting = [solo for solo in self.verification.solos if solo.scores() is None]
        seeds = sorted({solo.seed for solo in waiting})
        hashes = self._first_weights(seeds) if seeds else {}
        jobs = []
        for solo in waiting:
            self._solos[str(solo)] = solo
            order = {
                "job": "solo",
                "solo": str(solo),
                "run": str(self.run_directory.absolute()),
                "head": solo.candidate,
                "first_weights": {solo.seed: hashes[solo.seed]},
                "flags": self.verification.settings_of(solo),
            }
            folder = (self.run_directory / ATTEMPTS).absolute() / solo.directory.name
            jobs.append(Job(str(solo), order, folder))
        return jobs

    def _first_weights(self, seeds: Sequence[int]) -> dict[int, str]:
        config = resolve({}, self.run_directory / "config.yaml")
        sizes = find_recipe(config.recipe).sizes_for(config.objective)
        objective = make_objective(config.objective, **sizes)
        plan = plan_of_run(self.verification.search)
        return write_first_weights(self.run_directory, config, plan, objective, seeds)

    def _accept(self, job: Job, result: Message, attempt: Path) -> None:
        """Moves the directory of a solo run to where `verify` has it, and writes the gains."""
        solo = self._solos[job.order["solo"]]
        if result["failure"] is not None:
            self.failures.append(f"{job.name}: {result['failure']}")
        else:
            shutil.rmtree(solo.directory, ignore_errors=True)
            (attempt / RUN).replace(solo.directory)
        remove_attempts(job)
        self.verification.write()
