"""An engine that does its tasks in this process, one at a time, and tiny searches on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import pandas as pd

from headsearch.cluster.engine import Ended, Heard, Message, News
from headsearch.cluster.search import EngineSearch
from headsearch.cluster.task import perform
from headsearch.config.settings import resolve
from headsearch.runs.directory import claimed
from headsearch.runs.run import read_run
from headsearch.study.search import Search
from headsearch.study.setup import prepare
from helpers.tiny_search import settings as tiny_settings

SPACE = """
families:
  attention: {depth: 1}
  convnext: {depth: 1, kernel: 3}
  poolformer: {depth: 1}
controls:
  identity:
"""


class InlineEngine:
    """Runs tasks in this process.

    Args:
        last_first: whether the task that was started last is done first.
        heard: called with every message before the driver hears it; it may raise an error.
    """

    def __init__(
        self, *, last_first: bool = False, heard: Callable[[Message], None] = lambda message: None
    ) -> None:
        self.last_first, self.heard = last_first, heard
        self.orders: list[Mapping[str, Any]] = []
        self._waiting: list[int] = []
        self._running: tuple[int, Iterator[str]] | None = None
        self._lost: list[Ended] = []

    def start(self, order: Message, avoid: Collection[str] = ()) -> int:
        self.orders.append(json.loads(json.dumps(order)))
        self._waiting.append(len(self.orders))
        return len(self.orders)

    def news(self, seconds: float) -> list[News]:
        if self._lost:
            return [self._lost.pop()]
        if self._running is None:
            if not self._waiting:
                return []
            task = self._waiting.pop(-1 if self.last_first else 0)
            self._running = task, perform(json.dumps(self.orders[task - 1]), "here")
        task, says = self._running
        message = next(says, None)
        if message is None:
            self._running = None
            return [Ended(task)]
        self.heard(json.loads(message))
        return [Heard(task, json.loads(message))] if self._running is not None else self.news(0)

    def cancel(self, task: int, *, force: bool) -> None:
        if task in self._waiting:
            self._waiting.remove(task)
        elif self._running is not None and self._running[0] == task:
            self._running[1].close()  # type: ignore[attr-defined] # it is a generator
            self._running = None
        self._lost.append(Ended(task, "it was cancelled"))

    def lose(self) -> None:
        """The running task's process is lost, right after a snapshot."""
        assert self._running is not None
        task, says = self._running
        says.close()  # type: ignore[attr-defined] # it is a generator
        self._running = None
        self._lost.append(Ended(task, "its process died"))

    def machines(self) -> Mapping[str, str]:
        return {"here": "here"}


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """A search over four heads in two cohorts of eight steps."""
    tiny = {"images": 64, "epochs": 2, "batch_size": 16, "rungs": 2, "cohort": 2, "min_keep": 1}
    return tiny_settings(folder, **{"space": SPACE, **tiny, **changes})


def on_engine(
    folder: Path,
    name: str,
    engine: Any,
    generation: int = 2,
    processes: int = 1,
    **changes: Any,
) -> EngineSearch:
    """A search on an engine, in a run directory of this name; one that exists is resumed."""
    given = settings(folder, **changes)
    run = folder / name
    if not run.exists():
        with claimed(resolve({**given, "out": run}), {**given, "out": run}):
            return _search(given, run, engine, generation, processes)
    return _search(given, run, engine, generation, processes)


def _search(
    given: dict[str, Any], run: Path, engine: Any, generation: int, processes: int
) -> EngineSearch:
    return EngineSearch(
        prepare(resolve(given)), run, engine, name="local", generation=generation, grace=60,
        processes=processes,
    )  # fmt: skip


def searched(folder: Path, name: str = "one", **changes: Any) -> Path:
    """The run directory of the same search in one process."""
    search = Search(prepare(resolve(settings(folder, out=folder / name, **changes))))
    search.run()
    return search.run_directory


def same(first: Path, second: Path) -> None:
    """Byte for byte, but for how long a head's step took."""
    for name in ("rungs.csv", "scores.csv"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    tables = [pd.read_csv(run / "ranking.csv", dtype=str) for run in (first, second)]
    pd.testing.assert_frame_equal(*(table.drop(columns="step_ms") for table in tables))
    assert trials_of(first) == trials_of(second)


def trials_of(run: Path) -> list[Mapping[str, Any]]:
    """What the study of a run directory holds of its candidates."""
    study = optuna.load_study(
        study_name=str(read_run(run).config["study_name"]),
        storage=f"sqlite:///{run / 'study.db'}",
    )
    return [
        {
            "state": trial.state,
            "params": trial.params,
            "values": trial.values,
            "rungs": trial.intermediate_values,
            "attrs": trial.user_attrs,
        }
        for trial in study.trials
    ]
