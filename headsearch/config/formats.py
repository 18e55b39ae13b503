"""Format numbers of the files that headsearch writes, and the check when a file is read.

A number is raised when an older headsearch could no longer read the file, or would read it wrongly.
Files written before there were format numbers have none and count as format 1.
"""

from __future__ import annotations

from headsearch.errors import UserError
from headsearch.version import VERSION

KEY = "format"
"""The key under which a file holds its format number."""
RUN = 1
"""Format of a run directory: config.yaml, the tables, and the attributes of the study."""
SPACE = 1
"""Format of a search space."""
PLAN = 1
"""Format of the plan of a search on an engine, and of the results of its cohorts."""


def check_format(found: object, known: int, where: str) -> None:
    """Refuses a file whose format is invalid or later than this headsearch can read.

    Args:
        found: the format number in the file; None if it has none.
        known: the latest format that can be read.
        where: how an error message names the file.

    Raises:
        UserError: the file cannot be read.
    """
    if found is None:
        return
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise UserError(f"{where}: {KEY} must be a whole number from 1 on, but is {found!r}")
    if found > known:
        raise UserError(
            f"{where}: written by a later headsearch, in format {found}; this one "
            f"({VERSION}) reads formats up to {known}: update headsearch"
        )
