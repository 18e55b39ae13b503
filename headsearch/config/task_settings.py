"""The setting `--tasks`: further evaluation sets on which heads are scored at every rung."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from headsearch.config.panels import SCORES, setting
from headsearch.errors import UserError

TASKS = setting(
    None,
    "Further labelled sets on which heads are scored too: NAME=DATA[@LABELS];NAME=DATA…, where "
    "DATA is BANK,QUERIES or one set, which is split. LABELS is a column of a table of texts, or a "
    "file as for --labels. Texts also take pairs: a table with the columns sentence1, sentence2, "
    "score.",
    SCORES,
)

FORM = "NAME=BANK,QUERIES or NAME=DATA, several with ; between them"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")


@dataclass(frozen=True)
class TaskSpec:
    """A further task, as `--tasks` names it.

    Attributes:
        name: what it is called in tables and reports.
        places: what its data are, as in `--data`: bank and queries, or one set.
        labels: a file or a column with the labels, or the columns of pairs; None to find them.
    """

    name: str
    places: tuple[str, ...]
    labels: str | None = None

    def __str__(self) -> str:
        after = "" if self.labels is None else f"@{self.labels}"
        return f"{self.name}={','.join(self.places)}{after}"


def tasks_of(text: str | None) -> tuple[TaskSpec, ...]:
    """The tasks that a setting names; none without it.

    Raises:
        UserError: it is not written as tasks are, or two have one name.
    """
    if text is None:
        return ()
    found: dict[str, TaskSpec] = {}
    for part in filter(None, (each.strip() for each in text.split(";"))):
        name, equals, rest = (each.strip() for each in part.partition("="))
        if not equals or not _NAME.fullmatch(name):
            raise UserError(
                f"--tasks: {part!r} is no task: write {FORM} (a name has letters, digits, _ . -, "
                "at most 40)"
            )
        # A path may hold an @, so the last one counts.
        data, at, labels = (each.strip() for each in rest.rpartition("@"))
        places = tuple(each.strip() for each in (data if at else labels).split(","))
        if not all(places) or len(places) > 2 or (at and not labels):
            raise UserError(f"--tasks: {part!r} does not say which data: write {FORM}")
        if name in found:
            raise UserError(f"--tasks: two tasks are called {name!r}")
        found[name] = TaskSpec(name, places, labels if at else None)
    if not found:
        raise UserError(f"--tasks names no task: write {FORM}")
    return tuple(found.values())


def with_places(text: str, placed: Callable[[str], str], labels: Callable[[str], str]) -> str:
    """The same tasks with other places.

    Args:
        text: the setting.
        placed: from a place of data to the new one.
        labels: likewise of labels.
    """
    return ";".join(
        str(
            replace(
                task,
                places=tuple(map(placed, task.places)),
                labels=None if task.labels is None else labels(task.labels),
            )
        )
        for task in tasks_of(text)
    )
