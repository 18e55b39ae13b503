"""TensorBoard: writes the curves of a search or a pretraining into RUN/tensorboard/.

Each cohort of a search has its own sub-folder, beginning with `cohort-1`. Steps are counted over
the cohort, summed over its seeds. If a run resumes or goes back to an earlier step, the points from
that step on are purged, so that no step has two points.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from headsearch.errors import UserError
from headsearch.models.network import BASE
from headsearch.runs.console import print_notes
from headsearch.text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from torch.utils.tensorboard import SummaryWriter

E = TypeVar("E")

FOLDER = "tensorboard"
BASE_TAG = "(base)"
"""The base's name in tags. It sorts before the names of heads, and no head can have it."""
CHARTS = ("loss", "discrepancy", "k-NN", "linear", "effective rank")
"""Groups of tags, each with one tag for every head. Under Custom Scalars, each group is one chart
with a curve for every head."""


@dataclass(frozen=True)
class Points:
    """Points of curves at one step.

    Attributes:
        step: the step.
        values: the values by tag; NaN for curves that have no point at this step.
        scored: whether the values are scores of a rung. Those follow the losses of the same step.
        folder: the sub-folder to write to; empty for none.
    """

    step: int
    values: Mapping[str, float]
    scored: bool
    folder: str = ""


@contextmanager
def curves_written(
    run_directory: Path, points_of: Callable[[E], Points | None], console: Console | None
) -> Iterator[Callable[[E], None]]:
    """The observer that writes the curves of a run.

    Curves are no result of a run, so that it does not end where they cannot be written: points are
    lost until they can be, and a note says so once.

    Args:
        run_directory: the run's directory.
        points_of: returns the points that an event adds, or None.
        console: where to print the note; None warns as Python does.
    """
    warned = False
    with closing(TensorBoard(run_directory)) as board:

        def write(event: E) -> None:
            nonlocal warned
            try:
                board.write(points_of(event))
            except UserError as error:
                note = f"{error}; the run continues without these points"
                if not warned and console is not None:
                    print_notes(console, [note])
                elif not warned:
                    warnings.warn(note, stacklevel=2)
                warned = True

        yield write


class TensorBoard:
    """The curves of a run.

    Args:
        run_directory: the run's directory; earlier processes may have written curves into it.
    """

    def __init__(self, run_directory: Path) -> None:
        self._folder = run_directory / FOLDER
        self._boards: dict[str, _Board] = {}

    def write(self, points: Points | None) -> None:
        """Writes points, if there are any, to the disk at once, since a snapshot may follow.

        Raises:
            UserError: the file cannot be written.
        """
        if points is None:
            return
        if points.folder not in self._boards:
            self._boards[points.folder] = _Board(self._folder / points.folder)
        self._boards[points.folder].write(points)

    def close(self) -> None:
        for board in self._boards.values():
            board.close()


class _Board:
    """The curves of one folder, which may hold files that earlier processes wrote."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None
        self._step = -1

    def write(self, points: Points) -> None:
        step = points.step
        try:
            if self._writer is None or step < self._step:
                # A rung is scored at the step of the losses before it: keep those, purge after.
                self._open(step + 1 if points.scored and step > 0 else step)
            self._step = step
            assert self._writer is not None
            for tag, value in points.values.items():
                if not math.isnan(value):
                    self._writer.add_scalar(tag, value, step)
            self._writer.flush()
        except OSError as error:
            raise UserError(f"{self._folder}: cannot write: {error.strerror or error}") from error

    def _open(self, step: int) -> None:
        """Opens a new file, which purges the points of earlier files from this step on."""
        from torch.utils.tensorboard import SummaryWriter  # an extra, and slow to import

        self.close()
        # TensorBoard reads files in the order of their names, which hold the time in seconds.
        if any(f".{int(time.time())}." in file.name for file in self._folder.glob("events.*")):
            time.sleep(1)
        # The first file gets a start too: TensorBoard takes only a second start for a restart, and
        # purges nothing before it has seen one.
        self._writer = SummaryWriter(str(self._folder), purge_step=step)
        self._writer.add_custom_scalars(
            {"heads": {chart: ["Multiline", [f"^{chart}/"]] for chart in CHARTS}}
        )

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def tag(chart: str, name: str) -> str:
    """The tag of a head's curve in a chart, or of the base's."""
    return f"{chart}/{printable(name) if name != BASE else BASE_TAG}"
