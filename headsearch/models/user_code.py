"""Running a user's own code: it may raise anything, and must not end the process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

ANY_ERROR = (Exception, SystemExit)
"""What a user's code may raise and the user has to see; Ctrl-C is not among it."""


def one_line(error: BaseException) -> str:
    """The class of an exception and the first line of its message."""
    if isinstance(error, SystemExit):
        return f"it ends the process (exit code {error.code})"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def without_exit() -> Iterator[None]:
    """Within this block, `os._exit` raises SystemExit instead of ending the process at once.

    A process that is forked within the block ends as it would without it.
    """
    exit_at_once, process = os._exit, os.getpid()

    def refuse(status: int) -> NoReturn:
        if os.getpid() != process:
            exit_at_once(status)
        raise SystemExit(status)

    os._exit = refuse
    try:
        yield
    finally:
        os._exit = exit_at_once
