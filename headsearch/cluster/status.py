"""Console view of a study that many machines work on: tasks, workers, time left, best heads."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from headsearch.cluster.engine.claims import Standing
from headsearch.cluster.engine.queue import Tasks
from headsearch.cluster.shared_study import COHORT, SharedStudy
from headsearch.report import Table
from headsearch.report.console import fitted_table
from headsearch.runs.streams import is_lost
from headsearch.text import counted, duration

STATE_STYLES = {"waiting": "dim", "running": "", "done": "green", "lost": "red"}
BEST = 5
"""Maximum number of best heads to show."""


class StudyView:
    """The status of a study, as one observer sees it.

    How long a worker has been silent is known only from the second call of `now` on.
    """

    def __init__(self, study: SharedStudy) -> None:
        self._study, self._tasks = study, study.tasks()

    def now(self, width: int) -> tuple[RenderableType, bool]:
        """The current view in so many columns, and whether all tasks have ended."""
        standings = self._tasks.standing()
        parts: list[RenderableType] = [Text(self._headline(standings)), _table(standings, width)]
        parts += [Text(f"{s.task.key} failed before: {s.reason}") for s in standings if s.reason]
        best = _best(self._study, self._tasks)
        if best:
            parts.append(Text("best so far: " + ", ".join(best)))
        return Group(*parts), all(s.state in ("done", "lost") for s in standings)

    def _headline(self, standings: Sequence[Standing]) -> str:
        counts = {state: sum(s.state == state for s in standings) for state in STATE_STYLES}
        workers = {s.worker for s in standings if s.state == "running"}
        parts = [
            f"study {self._study.name}",
            f"{counts['done']} of {counted(len(standings), 'task')} done",
        ]
        parts += [f"{counts[state]} {state}" for state in ("running", "waiting", "lost")
                  if counts[state]]  # fmt: skip
        parts.append(f"{counted(len(workers), 'worker')} at work")
        left = seconds_left(standings)
        if left is not None:
            parts.append(f"about {duration(left)} left")
        return " · ".join(parts)


def seconds_left(standings: Sequence[Standing]) -> float | None:
    """The estimated number of seconds until all tasks have ended.

    A task takes the mean time of finished tasks of its kind, and running tasks count as half done.
    None if no task is left, no worker is running, or no task of a required kind is done yet.
    """
    workers = sum(s.state == "running" for s in standings)
    seconds = 0.0
    for kind in {s.task.kind for s in standings if s.state in ("running", "waiting")}:
        of_kind = [s for s in standings if s.task.kind == kind]
        took = [s.seconds for s in of_kind if s.state == "done" and s.seconds is not None]
        if not took:
            return None
        weight = {"running": 0.5, "waiting": 1.0}
        seconds += fmean(took) * sum(weight.get(s.state, 0.0) for s in of_kind)
    return seconds / workers if workers and seconds else None


def show_status(view: StudyView, console: Console, watch: float | None) -> None:
    """Prints the status of a study.

    Args:
        view: the view of the study.
        console: where to print.
        watch: seconds between two prints, until all tasks have ended or the output is closed;
            None prints once.
    """
    while True:
        content, ended = view.now(console.width)
        if watch is not None and console.is_interactive:
            console.clear()
        console.print(content)
        if watch is None or ended or is_lost(console.file):
            return
        time.sleep(watch)


def _table(standings: Sequence[Standing], width: int) -> RichTable:
    table = Table(
        ["Task", "State", "Worker", "Attempt", "Last beat"],
        [False, False, False, True, True],
        [[s.task.key, s.state, s.worker, str(s.attempt), _last_beat(s)] for s in standings],
        ["Attempt", "Last beat", "Worker"],
    )
    return fitted_table(table, width, [STATE_STYLES[s.state] for s in standings])[0]


def _last_beat(standing: Standing) -> str:
    """The time of a worker's last beat: as observed here, else by the worker's own clock."""
    if standing.state == "done":
        return f"took {duration(standing.seconds)}" if standing.seconds is not None else ""
    if standing.state != "running":
        return ""
    if standing.silent:
        return f"{standing.silent:.0f} s ago"
    if standing.beat_at is None:
        return "none yet"
    return f"{max(0.0, time.time() - standing.beat_at):.0f} s ago by its clock"


def _best(study: SharedStudy, tasks: Tasks) -> list[str]:
    """The best heads: of finished cohorts, and of running ones by their latest rung."""
    scores: dict[str, tuple[float, str]] = {}
    for name, score in _under_way(study):
        scores[name] = (score, f"{name} {score:.3f} (under way)")
    for result in tasks.results(COHORT).values():
        for row in result["rows"]:
            if row["state"] in ("complete", "pruned") and row["score"] == row["score"]:
                note = "" if row["state"] == "complete" else f" ({row['state']})"
                name = row["candidate"]
                scores[name] = (row["score"], f"{name} {row['score']:.3f}{note}")
    ordered = sorted(scores.values(), key=lambda entry: (-entry[0], entry[1]))
    return [words for _, words in ordered[:BEST]]


def _under_way(study: SharedStudy) -> Iterator[tuple[str, float]]:
    trials: list[Any] = study.storage.get_all_trials(study.id, deepcopy=False)
    for trial in trials:
        values = trial.intermediate_values
        if not trial.state.is_finished() and values:
            yield str(trial.user_attrs.get("candidate")), values[max(values)]
