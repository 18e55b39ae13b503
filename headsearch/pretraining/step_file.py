"""The step of a pretraining in a small file, which `verify` reads while its solo runs train."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

NAME = ".step"
EVERY_S = 0.5
"""The least number of seconds between two writes."""


class StepFile:
    """Writes the step that a pretraining has reached. Nothing depends on it, so it may fail.

    Args:
        directory: of the pretraining.
        steps: the number of all steps.
    """

    def __init__(self, directory: Path, steps: int) -> None:
        self._path, self._steps = directory / NAME, steps
        self._written = -EVERY_S

    def note(self, step: int) -> None:
        """The pretraining has taken so many steps."""
        now = time.monotonic()
        if now - self._written >= EVERY_S:
            self._written = now
            with suppress(OSError):
                self._path.write_text(f"{step} {self._steps}", encoding="ascii")

    def remove(self) -> None:
        """The pretraining has ended."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def read_step(directory: Path) -> tuple[int, int]:
    """The number of steps that the pretraining here has taken, and of all; zeros if unknown."""
    try:
        step, steps = (directory / NAME).read_text(encoding="ascii").split()
        return int(step), int(steps)
    except (OSError, ValueError):
        return 0, 0
