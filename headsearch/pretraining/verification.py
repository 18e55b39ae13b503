"""`verify`: solo runs of a search's best heads and of controls, and what each gains the base.

Every solo run is a `headsearch pretrain` of its own, a process with its own directory under
`RUN/solo/`: base, data, objective and length are the search's, and runs of one seed share first
weights, images and their order. A run that ended is not repeated, and one that did not goes on from
its snapshot. `solo.csv` holds a row for each, and `ranking.csv` gets `gain`, `gain_low` and
`gain_high`.
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
from headsearch.device import choose_device
from headsearch.errors import UserError
from headsearch.pretraining.head_selection import default_name
from headsearch.pretraining.run import PRETRAIN_COLUMNS
from headsearch.report.statistics.gains import write_gains
from headsearch.runs.directory import CONFIG, hold, read_config
from headsearch.runs.incidents import current_learning_rate
from headsearch.runs.observers import Observers
from headsearch.runs.run import Run
from headsearch.runs.snapshot import FOLDER
from headsearch.runs.tables import CONTROL_FAMILIES, NO_HEAD, SOLO_COLUMNS, ranked, write_table
from headsearch.text import for_file_name
from headsearch.training.base_plan import plan_of_run

POLL_S = 0.2


@dataclass(frozen=True)
class Solo:
    """One solo run."""

    candidate: str
    family: str
    seed: int
    directory: Path
    lr: float
    """Of all solo runs of a verification: what a search lowered since would set some apart."""

    def scores(self) -> dict[str, Any] | None:
        """Its row of solo.csv; None until it has ended."""
        table = self.directory / "pretrain.csv"
        if not table.is_file() or self.begun().get("lr", self.lr) != self.lr:
            return None
        last = pd.read_csv(table).reindex(columns=list(PRETRAIN_COLUMNS)).iloc[-1]
        if last["rung"] != 1:
            return None
        about = {"candidate": self.candidate, "family": self.family, "seed": self.seed}
        return about | {name: last[name] for name in SOLO_COLUMNS if name not in about}

    def begun(self) -> dict[str, Any]:
        """What it was begun with; nothing before it is."""
        known = (self.directory / CONFIG).is_file()
        return read_config(self.directory) if known else {}

    def left_on(self) -> str | None:
        """The device that it left a snapshot on to go on from; None where it left none."""
        begun = self.begun()
        left = (self.directory / FOLDER).is_dir() and begun.get("lr") == self.lr
        return str(begun["device"]) if left else None

    @property
    def log(self) -> Path:
        return self.directory.with_name(self.directory.name + ".log")

    def __str__(self) -> str:
        return f"{self.candidate} seed {self.seed}"


@dataclass(frozen=True)
class Progress:
    """How the solo runs stand.

    Attributes:
        ended: the run that ended just now, if any.
        failure: why it failed; None where it did not.
        done: runs that have ended, earlier ones too.
        total: of all.
        running: under way.
        seconds_left: None until one has ended.
    """

    ended: Solo | None
    failure: str | None
    done: int
    total: int
    running: tuple[Solo, ...]
    seconds_left: float | None


class Verification:
    """The solo runs of a search's best heads. Creating one writes nothing.

    Args:
        search: the run of the search.
        top: how many heads of its ranking, from the first; controls do not count.
        seeds: how many seeds, from the search's own on.
        controls: whether `identity` and the base's own kind of block run too; no head always does.
        jobs: runs at once; by default one a CUDA device, or one a core.
        threads: of each run; by default the cores are shared out.
        device: auto, cpu or cuda.

    Attributes:
        stop: once set, the solo runs under way are ended, and those that have ended are kept.

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
        if search.config.get("given"):
            raise UserError(
                f"{search.path}: its {search.config['given'][0]} was given in Python, where a "
                "process of its own cannot find it"
            )
        if search.facts.get("labelled") is False:
            raise UserError(f"{search.path} has no labels, and a gain is one in accuracy")
        self.search = search
        self.stop = threading.Event()
        self._done = 0
        config = resolve({}, search.path / "config.yaml")
        found = choose_device(device)
        self.devices = (
            [f"cuda:{index}" for index in range(torch.cuda.device_count())]
            if found.type == "cuda" and found.index is None
            else [str(found)]
        )
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        self.seeds = tuple(range(config.seed, config.seed + seeds))
        self.data_seed = config.seed if config.data_seed is None else config.data_seed
        heads, lr = _heads(search, top), current_learning_rate(search.facts, config.lr)
        self.solos = tuple(
            Solo(name, family, seed, search.path / "solo" / f"{for_file_name(name)}-seed{seed}", lr)
            for seed in self.seeds
            for name, family in [
                (NO_HEAD, NO_HEAD),
                *(_controls(search) if controls else []),
                *heads,
            ]
        )
        one_a_core = cores if found.type == "cpu" else len(self.devices)
        self.jobs = max(1, min(jobs or one_a_core, len(self.solos)))
        self.threads = threads or max(1, cores // self.jobs)
        self._resumed: set[Solo] = set()

    @property
    def run_directory(self) -> Path:
        """That of the search."""
        return self.search.path

    @property
    def complete(self) -> bool:
        """Whether all solo runs have ended."""
        return self._done == len(self.solos)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is going to run, a line each."""
        names = list(dict.fromkeys(solo.candidate for solo in self.solos))
        ended = sum(solo.scores() is not None for solo in self.solos)
        before = f", {ended} of them ended before" if ended else ""
        return (
            f"{len(names)} solo runs a seed: {', '.join(names)}",
            f"{len(self.seeds)} seeds: {len(self.solos)} runs{before}",
            f"{self.jobs} at once on {', '.join(self.devices)}, {self.threads} threads each",
        )

    def run(self, *observers: Callable[[Progress], None]) -> None:
        """Carries out the solo runs that have not ended; keeps solo.csv and ranking.csv up to date.

        Args:
            observers: called whenever a solo run has ended, and about five times a second. An error
                in one of them stops the verification like `stop`, and is raised at its end.

        Raises:
            UserError: the run directory cannot be written, or another process holds it.
        """
        watching = Observers(observers, self.stop)
        lock = hold(self.run_directory)
        try:
            self._run_all(watching.notify)
        finally:
            lock.release()
        watching.raise_error()

    def _run_all(self, notify: Callable[[Progress], None]) -> None:
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
            left = None
            if self._done > before:
                seconds_each = (time.monotonic() - started) / (self._done - before)
                left = seconds_each * (len(self.solos) - self._done)
            return Progress(ended, failure, self._done, len(self.solos), tuple(running), left)

        self._write()
        try:
            while (waiting or running) and not self.stop.is_set():
                while waiting and free:
                    solo = waiting.pop(0)
                    device = left if (left := solo.left_on()) in free else free[0]
                    free.remove(device)
                    running[solo] = self._start(solo, device), device
                ended = [solo for solo, (process, _) in running.items()
                         if process.poll() is not None]  # fmt: skip
                for solo in ended:
                    process, device = running.pop(solo)
                    free.append(device)
                    if process.returncode == 2 and solo in self._resumed:
                        # Its snapshot cannot be resumed from: start it again from the first step.
                        shutil.rmtree(solo.directory / FOLDER, ignore_errors=True)
                        self._resumed.remove(solo)
                        waiting.insert(0, solo)
                        continue
                    self._done += 1
                    failed = process.returncode != 0 or solo.scores() is None
                    self._write()
                    notify(progress(solo, _last_line(solo.log) if failed else None))
                if not ended:
                    notify(progress())
                    self.stop.wait(POLL_S)
        finally:
            for process, _ in running.values():
                process.terminate()
            for process, _ in running.values():
                process.wait()

    def _start(self, solo: Solo, device: str) -> subprocess.Popen[bytes]:
        """Starts a run, or goes on with one that did not end, where it was begun on this device.

        Raises:
            UserError: a process that an earlier verification left still trains it.
        """
        command = [sys.executable, "-m", "headsearch"]
        if solo.directory.exists():
            hold(solo.directory).release()
        if solo.left_on() == device:
            command += ["resume", str(solo.directory)]
            self._resumed.add(solo)
        else:
            shutil.rmtree(solo.directory, ignore_errors=True)
            command += ["pretrain", str(self.run_directory), *self._flags(solo, device)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        with solo.log.open("wb") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )

    def _flags(self, solo: Solo, device: str) -> list[str]:
        flags = {
            "head": solo.candidate,
            "seed": solo.seed,
            "data-seed": self.data_seed,
            "rungs": 1,
            "threads": self.threads,
            "device": device,
            "out": solo.directory,
        }
        return [part for name, value in flags.items() for part in (f"--{name}", str(value))]

    def _write(self) -> None:
        """Writes solo.csv, and the gains into ranking.csv."""
        keep_solo_rows(
            self.search, [row for solo in self.solos if (row := solo.scores()) is not None]
        )


def keep_solo_rows(run: Run, rows: Sequence[Mapping[str, Any]]) -> None:
    """Adds rows to solo.csv, in place of earlier ones of the same runs, and writes the gains."""
    now = pd.DataFrame(list(rows), columns=list(SOLO_COLUMNS))
    known = run.solo
    key = ["candidate", "seed"]
    table = pd.concat([known, now] if len(known) else [now]).drop_duplicates(key, keep="last")
    table = table.sort_values(["seed", "candidate"], kind="stable")
    if table.empty:
        return
    write_table(run.path / "solo.csv", table)
    write_gains(replace(run, solo=table))


def _heads(run: Run, top: int) -> list[tuple[str, str]]:
    """The first `top` heads that are no controls and neither collapsed nor failed."""
    rows = [row for row in ranked(run.ranking) if row.healthy and not row.control]
    if not rows:
        raise UserError(f"{run.path} ranks no head that could be verified")
    return [(row.candidate, row.family) for row in rows[:top]]


def _controls(run: Run) -> list[tuple[str, str]]:
    """The search's controls; where it had none, their defaults, as far as the base has any."""
    inside = [(row.candidate, row.family) for row in ranked(run.ranking) if row.control]
    missing = [family for family in CONTROL_FAMILIES if family not in {f for _, f in inside}]
    if "own" in missing and plan_of_run(run).own_family is None:
        missing.remove("own")
    return [*((default_name(family), family) for family in missing), *inside]


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    said = [line.strip() for line in lines if line.strip()]
    return said[-1].removeprefix("headsearch: ") if said else "it ended without a word"
