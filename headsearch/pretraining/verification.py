"""`verify`: pretrains the base with each of a search's best heads alone, and measures the gain.

The gain of a head is the base's accuracy after such a solo run minus its accuracy after a run
without a head. Every solo run is a `headsearch pretrain` process with its own directory under
`RUN/solo/`. Base, data, objective and length are those of the search, and runs with the same seed
share first weights, images and their order. A run that has ended is not repeated; one that was
interrupted is resumed. `solo.csv` holds a row for each run, and `ranking.csv` gets the columns
`gain`, `gain_low` and `gain_high`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from headsearch.config.settings import resolve
from headsearch.device import choose_device, cores_here
from headsearch.errors import UserError
from headsearch.models.space import default_name
from headsearch.pretraining.setup import lr_of_budget
from headsearch.pretraining.solo_directory import Solo, why_failed
from headsearch.pretraining.step_file import read_step
from headsearch.report.statistics.gains import write_gains
from headsearch.runs.directory import hold
from headsearch.runs.incidents import current_learning_rate
from headsearch.runs.observers import Observers
from headsearch.runs.run import Run
from headsearch.runs.signals import WITH_PARENT
from headsearch.runs.snapshot import FOLDER
from headsearch.runs.tables import CONTROL_FAMILIES, NO_HEAD, SOLO_COLUMNS, ranked, write_table
from headsearch.text import counted, for_file_name
from headsearch.training.base_plan import plan_of_run

POLL_S = 0.2
"""Seconds between two looks at the processes that are running."""
ENOUGH = 0.2
"""The number of solo runs that must be done before the remaining time is estimated."""


@dataclass(frozen=True)
class Running:
    """A solo run that is running.

    Attributes:
        solo: the run.
        step: the number of steps it has taken.
        steps: the number of all its steps; 0 while it starts.
    """

    solo: Solo
    step: int
    steps: int

    @property
    def share(self) -> float:
        """How much of it is done, from 0 to 1."""
        return self.step / self.steps if self.steps else 0.0


@dataclass(frozen=True)
class Progress:
    """The progress of a verification.

    Attributes:
        ended: the solo run that has just ended, if any.
        failure: why that run failed; None if it did not.
        done: the number of runs that have ended, including those of earlier calls.
        total: the number of runs.
        running: the runs that are running.
        seconds_left: the estimated remaining time; None while too little is done to tell.
    """

    ended: Solo | None
    failure: str | None
    done: int
    total: int
    running: tuple[Running, ...]
    seconds_left: float | None

    @property
    def share(self) -> float:
        """How much of all runs is done, from 0 to 1."""
        return _work_done(self.done, self.running) / max(1, self.total)


class Verification:
    """The solo runs of a search's best heads. Creating a `Verification` writes nothing.

    Args:
        search: the run of the search.
        top: the number of heads to verify, from the top of its ranking; controls do not count.
        seeds: the number of seeds, beginning with that of the search.
        controls: whether to run `identity` and the base's own kind of block too. The base without
            a head is always run.
        jobs: the number of runs at a time; by default one for each CUDA device or CPU core.
        threads: CPU threads of each run; by default the cores are divided evenly.
        device: auto, cpu or cuda.

    Attributes:
        stop: set it to end the solo runs that are running; those that have ended are kept.

    Raises:
        UserError: the run cannot be verified.
    """

    def __init__(
        self,
        search: Run,
        *,
        top: int = 3,
        seeds: int = 3,
        controls: bool = True,
        jobs: int | None = None,
        threads: int | None = None,
        device: str = "auto",
    ) -> None:
        given = [name for name in search.config.get("given", []) if name != "space"]
        if given:
            raise UserError(
                f"{search.path}: its {given[0]} was given in Python, and the processes of solo "
                "runs cannot load it"
            )
        if search.facts.get("labelled") is False:
            raise UserError(f"{search.path} has no labels, but a gain is measured in accuracy")
        self.search = search
        self.stop = threading.Event()
        self._done = 0
        config = resolve({}, search.path / "config.yaml")
        chosen = choose_device(device)
        self.devices = (
            [f"cuda:{index}" for index in range(torch.cuda.device_count())]
            if chosen.type == "cuda" and chosen.index is None
            else [str(chosen)]
        )
        cores = cores_here()
        self.seeds = tuple(range(config.seed, config.seed + seeds))
        self.data_seed = config.seed if config.data_seed is None else config.data_seed
        heads = _heads(search, top)
        lr = config.lr or lr_of_budget(config.budget, search)  # a run may not have recorded it
        lr = current_learning_rate(search.facts, lr)
        self.solos = tuple(
            Solo(name, family, seed, search.path / "solo" / f"{for_file_name(name)}-seed{seed}", lr)
            for seed in self.seeds
            for name, family in [
                (NO_HEAD, NO_HEAD),
                *(_controls(search) if controls else []),
                *heads,
            ]
        )
        default_jobs = cores if chosen.type == "cpu" else len(self.devices)
        self.jobs = max(1, min(jobs or default_jobs, len(self.solos)))
        self.threads = threads or max(1, cores // self.jobs)
        self._resumed: set[Solo] = set()

    @property
    def run_directory(self) -> Path:
        """The run directory of the search."""
        return self.search.path

    @property
    def complete(self) -> bool:
        """Whether all solo runs have ended."""
        return self._done == len(self.solos)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is going to run, one line each."""
        names = list(dict.fromkeys(solo.candidate for solo in self.solos))
        ended = sum(solo.scores() is not None for solo in self.solos)
        before = f", {ended} of them ended before" if ended else ""
        return (
            f"{counted(len(names), 'solo run')} a seed: {', '.join(names)}",
            f"{counted(len(self.seeds), 'seed')}: {counted(len(self.solos), 'run')}{before}",
            f"{self.jobs} at once on {', '.join(self.devices)}, "
            f"{counted(self.threads, 'thread')} each",
        )

    def run(self, *observers: Callable[[Progress], None]) -> None:
        """Runs the solo runs that have not ended, and updates solo.csv and ranking.csv after each.

        Args:
            observers: called whenever a solo run has ended, and about five times a second. If one
                raises an error, the verification stops as if `stop` were set, and the error is
                raised at the end.

        Raises:
            UserError: the run directory cannot be written, or another process uses it.
        """
        all_observers = Observers(observers, self.stop)
        lock = hold(self.run_directory)
        try:
            self._run_all(all_observers.notify)
        finally:
            lock.release()
        all_observers.raise_error()

    def _run_all(self, notify: Callable[[Progress], None]) -> None:
        """Starts processes while devices are free, and collects their results."""
        try:
            (self.run_directory / "solo").mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.run_directory}: cannot write into it: {error.strerror}"
            ) from None
        waiting = [solo for solo in self.solos if solo.scores() is None]
        self._done = before = len(self.solos) - len(waiting)
        free = [self.devices[index % len(self.devices)] for index in range(self.jobs)]
        running: dict[Solo, tuple[subprocess.Popen[bytes], str]] = {}
        started = time.monotonic()

        def progress(ended: Solo | None = None, failure: str | None = None) -> Progress:
            now = tuple(Running(solo, *read_step(solo.directory)) for solo in running)
            done = _work_done(self._done, now)
            left = None
            if done - before >= ENOUGH:
                seconds_each = (time.monotonic() - started) / (done - before)
                left = seconds_each * (len(self.solos) - done)
            return Progress(ended, failure, self._done, len(self.solos), now, left)

        self.write()
        try:
            while (waiting or running) and not self.stop.is_set():
                while waiting and free:
                    solo = waiting.pop(0)
                    # A run is resumed on the device that it began on; on another it starts anew.
                    device = left if (left := solo.left_on()) in free else free[0]
                    free.remove(device)
                    running[solo] = self._start(solo, device), device
                ended = [solo for solo, (process, _) in running.items()
                         if process.poll() is not None]  # fmt: skip
                for solo in ended:
                    process, device = running.pop(solo)
                    _close(process)
                    free.append(device)
                    if process.returncode == 2 and solo in self._resumed:
                        # Its snapshot cannot be resumed from: start it again from the first step.
                        shutil.rmtree(solo.directory / FOLDER, ignore_errors=True)
                        self._resumed.remove(solo)
                        waiting.insert(0, solo)
                        continue
                    self._done += 1
                    failed = process.returncode != 0 or solo.scores() is None
                    self.write()
                    notify(
                        progress(solo, why_failed(process.returncode, solo.log) if failed else None)
                    )
                if not ended:
                    notify(progress())
                    self.stop.wait(POLL_S)
        finally:
            for process, _ in running.values():
                process.terminate()
            for process, _ in running.values():
                process.wait()
                _close(process)

    def _start(self, solo: Solo, device: str) -> subprocess.Popen[bytes]:
        """Starts a run on a device, or resumes it if it was interrupted on that device.

        Raises:
            UserError: a process of an earlier verification still trains it.
        """
        command = [sys.executable, "-m", "headsearch"]
        if solo.directory.exists():
            hold(solo.directory).release()  # raises if another process holds it
        if solo.left_on() == device:
            command += ["resume", str(solo.directory)]
            self._resumed.add(solo)
        else:
            shutil.rmtree(solo.directory, ignore_errors=True)
            command += ["pretrain", str(self.run_directory), *self._flags(solo, device)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), WITH_PARENT: "1"}
        with solo.log.open("wb") as log:
            # The pipe is closed when this process ends, even if it is killed, and the run then
            # stops with a snapshot.
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment
            )

    def settings_of(self, solo: Solo) -> dict[str, Any]:
        """The settings of a solo run that differ from those of the search, by name."""
        return {
            "seed": solo.seed,
            "data_seed": self.data_seed,
            "rungs": 1,
            "threads": self.threads,
            "device": self.devices[0].partition(":")[0],
        }

    def _flags(self, solo: Solo, device: str) -> list[str]:
        flags = {
            "head": solo.candidate,
            **self.settings_of(solo),
            "device": device,
            "out": solo.directory,
        }
        return [
            part
            for name, value in flags.items()
            for part in (f"--{name.replace('_', '-')}", str(value))
        ]

    def write(self) -> None:
        """Writes solo.csv, and the gains into ranking.csv."""
        keep_solo_rows(
            self.search, [row for solo in self.solos if (row := solo.scores()) is not None]
        )


def _close(process: subprocess.Popen[bytes]) -> None:
    """Closes the pipe to a process that has ended."""
    if process.stdin is not None:
        process.stdin.close()


def _work_done(ended: int, running: Sequence[Running]) -> float:
    """The number of solo runs that are done, parts of those that are running included."""
    return ended + sum(run.share for run in running)


def keep_solo_rows(run: Run, rows: Sequence[Mapping[str, Any]]) -> None:
    """Adds rows to solo.csv, replacing earlier rows of the same runs, and writes the gains."""
    new = pd.DataFrame(list(rows), columns=list(SOLO_COLUMNS))
    known = run.solo
    key = ["candidate", "seed"]
    table = pd.concat([known, new] if len(known) else [new]).drop_duplicates(key, keep="last")
    table = table.sort_values(["seed", "candidate"], kind="stable")
    if table.empty:
        return
    write_table(run.path / "solo.csv", table)
    write_gains(replace(run, solo=table))


def _heads(run: Run, top: int) -> list[tuple[str, str]]:
    """The first `top` heads of the ranking, without controls and heads that collapsed or failed."""
    rows = [row for row in ranked(run.ranking) if row.healthy and not row.control]
    if not rows:
        raise UserError(f"{run.path} ranks no head that could be verified")
    return [(row.candidate, row.family) for row in rows[:top]]


def _controls(run: Run) -> list[tuple[str, str]]:
    """The search's controls, and the default ones of families that it had no control of."""
    searched = [(row.candidate, row.family) for row in ranked(run.ranking) if row.control]
    missing = [family for family in CONTROL_FAMILIES if family not in {f for _, f in searched}]
    # Not every base has a kind of block that headsearch can build as a head.
    if "own" in missing and plan_of_run(run, shape_only=True).own_family is None:
        missing.remove("own")
    return [*((default_name(family), family) for family in missing), *searched]
