"""The formats of what headsearch writes for a later headsearch to read.

A number goes up when an older headsearch could no longer read the file, or would read it wrongly.
Files of before there were formats name none, and are of the first.
"""

from __future__ import annotations

from headsearch.errors import UserError
from headsearch.version import VERSION

KEY = "format"
RUN = 1
"""Of a run directory: config.yaml, its tables, and what the study says of the run."""
SPACE = 1
"""Of a search space."""
FLEET = 1
"""Of a study that many machines work at, and of its tasks and their results."""


def check_format(found: object, known: int, where: str) -> None:
    """Refuses a file of a format that is later than this headsearch, or is none.

    Args:
        found: what the file says under `KEY`; None where it says nothing.
        known: the latest format that is read here.
        where: the file, as a message calls it.

    Raises:
        UserError: it cannot be read.
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
