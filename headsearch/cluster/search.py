"""A search whose cohorts train on an engine: `headsearch run --engine`.

All its state is in the run directory: the plan, a result for each cohort, and the Optuna study. So
a search that is resumed goes through the same code as one that starts.

A cohort is one task from its first step to its last. With `--prune-among all` it is one task for
each rung, because a rung is decided once all cohorts have come to it (`study.py`).
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from headsearch.cluster.driver import Driver, DriverEvent, Job, attempt_folders
from headsearch.cluster.engine import Engine, EngineGoneError, Message
from headsearch.cluster.jobs import candidate_of
from headsearch.cluster.merge import merging, read_result, write_result
from headsearch.cluster.plan import Plan, read_plan, write_first_weights, write_plan
from headsearch.cluster.study import decide, decided_until, tell_result
from headsearch.config.locations import absolute_locations
from headsearch.data.fingerprint import fingerprint
from headsearch.errors import UserError
from headsearch.report.statistics.gains import write_gains
from headsearch.runs import same_settings
from headsearch.runs.directory import hold, read_config, undone_if_it_fails
from headsearch.runs.observers import Observers
from headsearch.runs.run import read_run
from headsearch.runs.storage import STORAGE_ERRORS, check_storage, reason_of
from headsearch.study.leaderboard import Entry
from headsearch.study.other_data_record import dense_facts, task_facts
from headsearch.study.proposals import ask_for_cohort, enqueue
from headsearch.study.pruners import GENERATION
from headsearch.study.run_facts import first_facts
from headsearch.study.setup import SearchSetup, settings_of
from headsearch.study.trials import Trials
from headsearch.text import counted
from headsearch.training.provenance import check_same_data

ATTEMPTS = "attempts"
"""The folder of a run with a folder for each attempt at a cohort that has no result yet."""
SAVED_EVERY_S = 2.0
"""Seconds between two writings of the tables, at least; results are written at once."""
LEARNING = ("tpe", "nsgaii")
"""Samplers that learn from candidates that have been scored."""
INDEPENDENT = ("rung", "none")
"""Pruners whose decisions about a cohort depend on that cohort alone."""


def check_can_be_spread(prepared: SearchSetup, processes: int) -> None:
    """Checks that the cohorts of a search can train apart from each other.

    Args:
        prepared: the set-up of the search.
        processes: the number of processes that train each cohort.

    Raises:
        UserError: they cannot.
    """
    config = prepared.config
    if config.pruner not in INDEPENDENT:
        raise UserError(
            f"--pruner {config.pruner} judges by what has ended before, and on an engine that has "
            f"no fixed order; use {' or '.join(INDEPENDENT)}"
        )
    if config.stop != "end":
        raise UserError(
            f"--stop {config.stop} lets the first cohort decide for the others, which an engine "
            "trains at the same time: leave it out"
        )
    if config.log != "none":
        raise UserError(f"--log {config.log} works in one process: leave out --engine")
    sample = prepared.training.domain.words.sample
    if prepared.batch % processes or (processes > 1 and config.images_per_head != "all"):
        raise UserError(
            f"--processes {processes} needs a --batch-size that is a multiple of it, and "
            f"--images-per-head all; here a step has {counted(prepared.batch, sample)}, of which "
            f"a head sees {config.images_per_head}"
        )


class EngineSearch:
    """A search in its run directory, whose cohorts are jobs of a driver.

    Args:
        prepared: the set-up of the search.
        directory: its run directory, claimed for it or left by an earlier process.
        engine: the engine.
        name: the engine as the user named it.
        generation: the number of cohorts between which a sampler does not learn.
        grace: as that of `Driver`.
        processes: the number of processes that train each cohort.

    Attributes:
        run_directory: the run directory.
        stop: set it to stop the search; the tasks write a snapshot each.

    Raises:
        UserError: the run cannot be resumed, or cannot train on an engine.
    """

    def __init__(
        self,
        prepared: SearchSetup,
        directory: Path,
        engine: Engine,
        *,
        name: str,
        generation: int,
        grace: float,
        processes: int = 1,
    ) -> None:
        check_can_be_spread(prepared, processes)
        self.prepared, self.run_directory = prepared, directory
        self.engine, self.grace = engine, grace
        self.stop = threading.Event()
        self._observers = Observers[DriverEvent]((), self.stop)
        self._results: dict[int, Message] = {}
        self._set_aside: dict[int, Job] = {}
        self._saved_at = -SAVED_EVERY_S
        self._lock = hold(directory)
        with undone_if_it_fails(directory, None, self._lock), written_into(directory):
            self.plan = self._opened(name, generation, processes)
            begun = bool(self.plan.cohorts)
            self.trials = Trials(directory, prepared.config, self.plan.settings, begun=begun)
            read = {i: read_result(directory, i) for i in range(len(self.plan.cohorts))}
            self._results = {i: result for i, result in read.items() if result is not None}

    def _opened(self, name: str, generation: int, processes: int) -> Plan:
        """The plan of the run: read, if it was begun before, or written."""
        prepared, directory = self.prepared, self.run_directory
        now, before = settings_of(prepared, directory), read_config(directory)
        plan = read_plan(directory)
        if plan is None and "study_name" in before:
            raise UserError(f"{directory}: was begun in one process: resume it without --engine")
        check_same_data(directory, before, now)
        if plan is None:
            plan = replace(self._new_plan(now, name, generation), processes=processes)
        # A process that died right after it wrote the plan has left no complete config.yaml.
        begun = "study_name" in before
        same_settings.check_same_settings(directory, now if begun else plan.settings)
        decided = same_settings.settings_that_decide(plan.settings)
        same_settings.check_as_recorded(directory, decided, now)
        plan = replace(plan, settings={**plan.settings, **absolute_locations(now)})
        write_plan(directory, plan)
        return plan

    def _new_plan(self, settings: Mapping[str, Any], name: str, generation: int) -> Plan:
        config, training = self.prepared.config, self.prepared.training
        if config.storage is not None:
            check_storage(config.storage)
        weights = write_first_weights(
            self.run_directory,
            config,
            training.plan,
            training.objective,
            range(config.seed, config.seed + config.seeds),
        )
        return Plan(
            engine=name,
            generation=generation,
            settings=settings,
            facts={
                **first_facts(self.prepared),
                "dense": dense_facts(self.prepared),
                "tasks": task_facts(self.prepared),
            },
            images=fingerprint(self.prepared.data),
            first_weights=weights,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """The decisions made before the first step, and how many cohorts have a result."""
        cohorts = counted(len(self.prepared.cohort_sizes), "cohort")
        done = sum(map(self._done, range(len(self.plan.cohorts))))
        before = f", {done} of them done before" if done else ""
        many = self.plan.processes > 1
        each_by = f", each by {self.plan.processes} processes" if many else ""
        each = counted(self._generation, "cohort")
        learns = f"{self.prepared.config.sampler} learns after {each}, then after {each} more"
        return (
            *self.prepared.notes,
            f"{cohorts} on {counted(len(self.engine.machines()), 'machine')}{each_by}{before}",
            *([learns] if self._generation < len(self.prepared.cohort_sizes) else []),
        )

    @property
    def complete(self) -> bool:
        """Whether every cohort has a result."""
        return self._all_drawn and all(map(self._done, range(len(self.plan.cohorts))))

    @property
    def set_aside(self) -> tuple[str, ...]:
        """The cohorts that failed or were lost too often, and why, one line each."""
        return tuple(f"{job.name} {job.reason}" for job in self._set_aside.values())

    def run(self, *observers: Callable[[DriverEvent], None]) -> None:
        """Trains the cohorts that have no result, until all have or `stop` is set.

        Args:
            observers: called with every event. If one raises an error, the search stops as if
                `stop` were set, and the error is raised at the end.

        Raises:
            UserError: the engine is gone or can do none of it, or the run cannot be written.
        """
        self._observers = Observers(observers, self.stop)
        try:
            with written_into(self.run_directory):
                self._save("running")
                self._train()
                self._save("complete" if self.complete else "interrupted")
        except BaseException:
            with suppress(UserError, OSError, *STORAGE_ERRORS):
                self._save("interrupted")
            raise
        finally:
            self._lock.release()
        self._observers.raise_error()

    def _train(self) -> None:
        """Trains the cohorts that are drawn, then draws the next generation, until all are done."""
        while not self.stop.is_set():
            jobs = self._next_jobs()
            if jobs:
                driver = Driver(self.engine, self.grace, self._accept, self._observers.notify)
                driver.run(jobs, self.stop)
                for job in jobs:
                    if job.state == "set aside":
                        self._set_aside[job.order["cohort"]] = job
            elif self._all_drawn:
                return
            else:
                self._draw(len(self.plan.cohorts) + self._generation)

    def _next_jobs(self) -> list[Job]:
        """The cohorts that are to train next; none if all that were drawn are done or set aside."""
        cohorts = self.plan.cohorts
        left = [i for i in range(len(cohorts)) if not self._done(i) and i not in self._set_aside]
        # Rungs that all cohorts decide together are waited for, so none may be ahead of another.
        rung = min(map(self._waits_at, left), default=0)
        if rung:
            self._save("running")
            decide(self.trials, cohorts, rung)
        return [self._job(i) for i in left if self._waits_at(i) == rung]

    def _waits_at(self, index: int) -> int:
        """The rung at which a cohort waits for a decision; 0 before any."""
        return self._results.get(index, {}).get("waits_at") or 0

    def _done(self, index: int) -> bool:
        """Whether a cohort has its result."""
        return index in self._results and not self._waits_at(index)

    @property
    def _rungs_compare_all(self) -> bool:
        """Whether a rung is decided over all cohorts of a generation."""
        return self.prepared.config.prune_among == "all"

    @property
    def _generation(self) -> int:
        """The number of cohorts that are drawn at a time: all, where nothing is learned."""
        learns = self.prepared.listing is None and self.prepared.config.sampler in LEARNING
        return self.plan.generation if learns else len(self.prepared.cohort_sizes)

    @property
    def _all_drawn(self) -> bool:
        """Whether all candidates are drawn. An exhausted space has fewer than planned."""
        sizes, drawn = self.prepared.cohort_sizes, self.plan.cohorts
        return len(drawn) == len(sizes) or self.plan.exhausted

    def _draw(self, count: int) -> None:
        """Draws candidates until there are `count` cohorts, and writes them into the plan."""
        study, space = self.trials.study, self.prepared.space
        config, sizes = self.prepared.config, self.prepared.cohort_sizes
        enqueue(study, space, self.prepared.listing)
        cohorts, known, exhausted = list(self.plan.cohorts), self.plan.known, False
        for index in range(len(cohorts), min(count, len(sizes))):
            proposals = ask_for_cohort(study, space, config, index, sizes[index], known)
            known |= {proposal.trial.number: index for proposal in proposals}
            if self._rungs_compare_all:
                for proposal in proposals:
                    proposal.trial.set_user_attr(GENERATION, index // self._generation)
            if proposals:
                cohorts.append(
                    tuple(
                        {
                            "name": p.candidate.name,
                            "params": p.trial.params,
                            "trial": p.trial.number,
                        }
                        for p in proposals
                    )
                )
            if len(proposals) < sizes[index]:
                exhausted = True
                break
        self.plan = replace(self.plan, cohorts=tuple(cohorts), exhausted=exhausted)
        write_plan(self.run_directory, self.plan)

    def _job(self, index: int) -> Job:
        heads, name = self.plan.cohorts[index], f"cohort {index + 1}"
        order: dict[str, Any] = {
            "job": "cohort",
            "run": str(self.run_directory.absolute()),
            "cohort": index,
            "candidates": heads,
            "device": self.prepared.training.device.type,
        }
        folder = (self.run_directory / ATTEMPTS).absolute() / f"cohort-{index + 1}"
        if self.plan.processes > 1:
            order["processes"] = self.plan.processes
        if self._rungs_compare_all:
            last = self._waits_at(index)
            order["decided"] = decided_until(self.trials, heads, last)
            name += f" up to rung {min(last + 1, self.prepared.config.rungs)}"
        return Job(name, order, folder)

    def _accept(self, job: Job, result: Message, attempt: Path) -> None:
        index = job.order["cohort"]
        write_result(self.run_directory, index, result)
        self._results[index] = result
        remove_attempts(job, keep=attempt if self._waits_at(index) else None)
        if time.monotonic() - self._saved_at > SAVED_EVERY_S:
            self._save("running")

    def _save(self, status: str) -> None:
        """Writes tables, study and facts from the results that there are."""
        merged, settled = merging(self.plan.facts), True
        for index, heads in enumerate(self.plan.cohorts):
            result, job = self._results.get(index), self._set_aside.get(index)
            if result is not None:
                if settled:  # in order, as the cohorts before decide how this one is numbered
                    tell_result(self.trials, heads, result, merged.first)
                merged.add(result if job is None else _given_up(result, job.reason))
                continue
            settled = settled and job is not None
            merged.add_without_result([] if job is None else self._failed_rows(heads, job.reason))
        merged.write(self.run_directory, self.prepared.batch)
        merged.facts["settings"] = same_settings.settings_that_decide(self.plan.settings)
        merged.facts["status"] = status
        self.trials.note(merged.facts)
        write_gains(read_run(self.run_directory))
        self._saved_at = time.monotonic()

    def _failed_rows(self, heads: tuple[Message, ...], reason: str) -> list[dict[str, Any]]:
        """The rows in ranking.csv of a cohort that was set aside."""
        rows = []
        for head in heads:
            entry = Entry(candidate_of(self.prepared.space, head), head["trial"], cohort=0)
            entry.end("failed", f"its cohort {reason}")
            rows.append(entry.row())
        return rows


@contextmanager
def written_into(run: Path, how: str | None = None) -> Iterator[None]:
    """In this block an engine writes a run; errors of disk and engine say how to go on.

    Args:
        run: the run directory.
        how: the command that goes on; by default `headsearch resume RUN`.

    Raises:
        UserError: the run cannot be written, or the engine is gone.
    """
    how = how or f"headsearch resume {run}"
    try:
        yield
    except EngineGoneError as error:
        raise UserError(f"{error}: start it again, then {how}; what is done is kept") from None
    except (OSError, *STORAGE_ERRORS) as error:
        reason = error.strerror if isinstance(error, OSError) else reason_of(error)
        raise UserError(
            f"{run}: cannot write: {reason}; what was written before is kept: fix the cause, "
            f"then {how}"
        ) from None


def _given_up(result: Message, reason: str) -> Message:
    """What a cohort had come to at a rung, after which it was set aside."""
    failed = {"state": "failed", "reason": f"its cohort {reason}"}
    rows = [{**row, **failed} if row["state"] == "running" else row for row in result["rows"]]
    return {**result, "rows": rows}


def remove_attempts(job: Job, *, keep: Path | None = None) -> None:
    """Removes the folders of all attempts at a job that is done, but for one to `keep`."""
    for folder in attempt_folders(job.folder):
        if folder != keep:
            shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        job.folder.parent.rmdir()  # if it is empty
