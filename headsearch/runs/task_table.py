"""tasks.csv: the scores of every representation in the further tasks, with standard errors.

A row is a representation, a task and a score, with the columns of dense.csv. The two tables are
rows of one kind, told apart by the names of their scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from headsearch.runs.dense_table import Layout, read_scores, write_scores
from headsearch.runs.other_data import TASK_MEAN, TASK_SCORES

FILE = "tasks.csv"
RAW = "raw"
"""The kind of the row of the inputs themselves, such as shrunk pixels or TF-IDF."""
LAYOUT = Layout(
    FILE, "task", (RAW, "untrained", "base", "head"), (TASK_MEAN, *TASK_SCORES)
)  # fmt: skip
"""`task_mean` is the mean over the tasks; its rows name no task."""


def no_tasks() -> pd.DataFrame:
    """A table without rows."""
    return pd.DataFrame(columns=list(LAYOUT.columns))


def write_tasks(run_directory: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes tasks.csv; nothing without rows of tasks."""
    write_scores(run_directory, rows, LAYOUT)


def read_tasks(run_directory: Path) -> pd.DataFrame:
    """Reads tasks.csv; an empty table if there is none.

    Raises:
        UserError: it is not such a table.
    """
    return read_scores(run_directory, LAYOUT)
