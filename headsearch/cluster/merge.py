"""RUN/cohorts/N.json: the result of each cohort, and the run's tables and facts made from them.

Results are merged in the order of cohorts, not in the order in which they came. Apart from measured
times, the tables are therefore bitwise the same wherever and whenever a cohort trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headsearch.config import formats
from headsearch.errors import UserError
from headsearch.evaluation.other_data_rows import base_name
from headsearch.runs.directory import write_atomically
from headsearch.runs.facts import RunFacts
from headsearch.runs.other_data_tables import write_other_data
from headsearch.study.leaderboard import base_of_the_first, ordered, write_tables

COHORTS = "cohorts"
"""The folder with the results of the cohorts."""
SUMS = ("cost_base_equivalents", "solo_equivalents", "wall_s", "score_s")
"""Facts of a search that are the sums of those of its cohorts."""


def write_result(run: Path, index: int, result: Mapping[str, Any]) -> None:
    """Writes the result of a cohort, completely or not at all.

    Args:
        run: the run directory.
        index: the index of the cohort. The index counts from 0, the name of the file from 1.
        result: as `jobs.cohort_result` returns it.

    Raises:
        OSError: it cannot be written.
    """
    (run / COHORTS).mkdir(exist_ok=True)
    content = json.dumps({formats.KEY: formats.PLAN, **result})
    write_atomically(_file(run, index), content)


def read_result(run: Path, index: int) -> dict[str, Any] | None:
    """The result of a cohort; None if there is none yet.

    Raises:
        UserError: the file is damaged, or a later headsearch wrote it.
    """
    file = _file(run, index)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: damaged ({error}): delete it, and resume the run") from None
    formats.check_format(content.get(formats.KEY), formats.PLAN, str(file))
    return dict(content)


def _file(run: Path, index: int) -> Path:
    return run / COHORTS / f"{index + 1}.json"


@dataclass
class Merged:
    """The results of several cohorts as those of one search.

    Attributes:
        facts: the facts of the run.
        rows, rung_rows, score_rows, other_data_rows: the rows of its tables, in the order of
            cohorts.
        first: the number of cohorts so far. A cohort that did not fit into memory counts as its
            parts.
        trained_s, steps: seconds of training, and steps that they took.
        devices: the devices that cohorts trained on.
    """

    facts: RunFacts
    rows: list[Mapping[str, Any]] = field(default_factory=list)
    rung_rows: list[Mapping[str, Any]] = field(default_factory=list)
    score_rows: list[Mapping[str, Any]] = field(default_factory=list)
    other_data_rows: list[Mapping[str, Any]] = field(default_factory=list)
    first: int = 0
    trained_s: float = 0.0
    steps: int = 0
    devices: set[str] = field(default_factory=set)

    def add(self, result: Mapping[str, Any]) -> None:
        """Adds the result of the next cohort."""
        facts: Mapping[str, Any] = result["facts"]
        numbers = range(self.first + 1, self.first + 1 + len(result["sizes"]))
        self.facts["machines"].setdefault(result.get("host", "?"), []).extend(numbers)
        self.rows += renumbered(result["rows"], self.first)
        self.rung_rows += renumbered(result["rung_rows"], self.first)
        self.score_rows += result["score_rows"]
        self.other_data_rows += other_data_renumbered(result["dense_rows"], self.first)
        self.facts["lowered"] += renumbered(facts["lowered"], self.first)
        self.facts["splits"] += renumbered(facts["splits"], self.first)
        self.facts["baselines"] = {**facts["baselines"], **self.facts["baselines"]}
        for name in SUMS:
            self.facts[name] += facts[name]  # type: ignore[literal-required]
        self.facts["dominant_share"] = facts.get("dominant_share")
        self.trained_s += result["pace"]["train_s"]
        self.steps += result["pace"]["steps_done"]
        self.devices.add(facts["device"])
        self.first += len(result["sizes"])

    def add_without_result(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds a cohort that has no result: with the rows of ranking.csv given, or without any."""
        self.rows += renumbered(rows, self.first)
        self.first += 1

    def write(self, run: Path, images_per_step: int) -> None:
        """Writes the tables, and completes the facts.

        Raises:
            OSError: they cannot be written.
        """
        if self.devices:
            self.facts["device"] = ", ".join(sorted(self.devices))
        self.facts["images_per_second"] = (
            self.steps * images_per_step / self.trained_s if self.trained_s else None
        )
        ranking = ordered(self.rows)
        self.facts["baselines"].update(base_of_the_first(ranking, self.rung_rows))
        write_tables(run, ranking, self.rung_rows, self.score_rows)
        write_other_data(run, self.other_data_rows)


def merging(facts: RunFacts) -> Merged:
    """Nothing merged yet, with the facts that were known before the first step."""
    empty: RunFacts = {
        "lowered": [], "splits": [], "baselines": {}, "cost_base_equivalents": 0.0,
        "solo_equivalents": 0.0, "wall_s": 0.0, "score_s": 0.0, "machines": {},
    }  # fmt: skip
    return Merged({**facts, **empty})


def renumbered(rows: Sequence[Mapping[str, Any]], by: int) -> list[dict[str, Any]]:
    """The rows of a cohort whose task numbered it from 0, renumbered among all cohorts."""
    return [{**row, "cohort": row["cohort"] + by} for row in rows]


def other_data_renumbered(rows: Sequence[Mapping[str, Any]], by: int) -> list[dict[str, Any]]:
    """The rows of dense.csv and tasks.csv of a cohort, renumbered among all cohorts.

    What all cohorts are compared with is kept once, from the first.
    """
    own = [row for row in renumbered(rows, by) if not by or row["kind"] in ("base", "head")]
    for row in own:
        if row["kind"] == "base":
            row["representation"] = base_name(row["cohort"])
        elif row["kind"] != "head":
            row["cohort"] = 0
    return own
