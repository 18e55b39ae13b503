"""TensorBoard: what a search or a pretraining yields, written as curves into RUN/tensorboard/.

A sub-folder a cohort, `cohort-1` first; the only one of a pretraining is its own folder. Steps are
counted over the cohort, those of all its seeds together. Where a run goes on, or goes back to an
earlier step, what was written from there on is purged, so that no step has two points.

Whoever shows a run takes its events from `events_of`; neither search nor pretraining knows of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from headsearch.errors import UserError
from headsearch.evaluation.scores import RungScores, Scores
from headsearch.models.network import BASE
from headsearch.pretraining.run import Pretraining
from headsearch.pretraining.solo import SoloAdvanced, SoloEvent, SoloScored
from headsearch.study.events import Advanced, Event, Scored
from headsearch.study.search import Search
from headsearch.text import printable

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"
BASE_TAG = "(base)"
"""The base's own name in tags: before all heads in their order, and no head's."""
CHARTS = ("loss", "discrepancy", "k-NN", "linear", "effective rank")
"""Groups of tags, one a head. Each is also one chart with a curve a head, under Custom Scalars."""


@overload
def events_of(running: Search) -> Generator[Event, None, None]: ...
@overload
def events_of(running: Pretraining) -> Generator[SoloEvent, None, None]: ...
def events_of(running: Search | Pretraining) -> Generator[Any, None, None]:
    """What a run yields; written to its boards before, where its settings ask for that.

    Raises:
        UserError: as the run, or the boards cannot be written.
    """
    with ExitStack() as open_now:
        events = open_now.enter_context(closing(running.run()))
        if running.config.log == "none":
            yield from events
            return
        folder, boards = running.run_directory / FOLDER, dict[Path, Board]()
        for event in events:
            if isinstance(event, Advanced | Scored | SoloAdvanced | SoloScored):
                place = folder
                if isinstance(event, Advanced | Scored):
                    place = folder / f"cohort-{event.cohort + 1}"
                if place not in boards:
                    boards[place] = open_now.enter_context(closing(Board(place)))
                boards[place].write(event, running.config.seeds)
            yield event


class Board:
    """The curves of one cohort.

    Args:
        folder: where its files go; those of earlier processes may be there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None
        self._step = -1

    def write(self, event: Advanced | Scored | SoloAdvanced | SoloScored, seeds: int) -> None:
        """Writes the points of an event, to the disk at once: a snapshot may follow.

        Raises:
            UserError: they cannot be written.
        """
        if isinstance(event, Advanced | SoloAdvanced) and not event.read:
            return
        # a rung's step is that of each seed
        step = event.step * seeds if isinstance(event, Scored) else event.step
        try:
            if self._writer is None or step < self._step:
                # A rung is scored at the step of the last losses before it, and these stand.
                after = isinstance(event, Scored | SoloScored) and step > 0
                self._open(step + 1 if after else step)
            self._step = step
            assert self._writer is not None
            for tag, value in values_of(event).items():
                if not math.isnan(value):
                    self._writer.add_scalar(tag, value, step)
            self._writer.flush()
        except OSError as error:
            raise UserError(f"{self._folder}: cannot write: {error.strerror or error}") from error

    def _open(self, step: int) -> None:
        """A new file; of those before it, nothing counts from this step on."""
        from torch.utils.tensorboard import SummaryWriter  # an extra, and slow to import

        self.close()
        # Files count in the order of their names, which hold the second in which they were begun.
        if any(f".{int(time.time())}." in file.name for file in self._folder.glob("events.*")):
            time.sleep(1)
        # The first file says where it starts too: for TensorBoard only a second start is a restart.
        self._writer = SummaryWriter(str(self._folder), purge_step=step)
        self._writer.add_custom_scalars(
            {"heads": {chart: ["Multiline", [f"^{chart}/"]] for chart in CHARTS}}
        )

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def values_of(event: Advanced | Scored | SoloAdvanced | SoloScored) -> dict[str, float]:
    """The points of an event, by their tags; NaN where there is none."""
    if isinstance(event, Scored):
        live = sum(
            s.cohort == event.cohort and not s.ended for s in event.leaderboard.entries.values()
        )
        return {**_scores(event.scores), "search/live heads": live}
    if isinstance(event, SoloScored):
        return _scores(event.scores)
    if isinstance(event, SoloAdvanced):
        losses = {BASE: event.loss, **event.head_losses}
    else:
        live_now = event.leaderboard.live(event.cohort)
        losses = {BASE: event.base_loss, **{s.candidate.name: s.loss for s in live_now}}
    return {
        **{_tag("loss", name): loss for name, loss in losses.items()},
        "speed/images per second": event.throughput.images_per_second,
    }


def _scores(scores: RungScores) -> dict[str, float]:
    return {
        _tag(chart, name): value
        for name, own in {BASE: scores.base, **scores.heads}.items()
        for chart, value in _of_one(own).items()
    }


def _of_one(own: Scores) -> dict[str, float]:
    """Accuracies are those on the labels that decided nothing, as in rungs.csv."""
    return {
        "discrepancy": own.discrepancy.value if own.discrepancy else math.nan,
        "k-NN": own.report.knn if own.report else math.nan,
        "linear": own.report.linear if own.report else math.nan,
        "effective rank": own.effective_rank,
    }


def _tag(chart: str, name: str) -> str:
    return f"{chart}/{printable(name) if name != BASE else BASE_TAG}"
