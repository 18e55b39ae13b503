"""Progress of pretrainings and verifications on the console, and one line for each result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from headsearch.models.network import BASE
from headsearch.pretraining.run import Pretraining
from headsearch.pretraining.solo import SoloAdvanced, SoloEvent, SoloScored
from headsearch.pretraining.verification import Progress
from headsearch.report.console import progress_line, say, speed_words
from headsearch.report.tensorboard import Points, tag
from headsearch.text import duration


@contextmanager
def shown(pretraining: Pretraining, console: Console) -> Iterator[Callable[[SoloEvent], None]]:
    """The observer that shows a pretraining: a line for each rung; in a terminal a progress bar."""
    rungs, steps = pretraining.config.rungs, pretraining.setup.steps

    def print_rung(event: SoloEvent) -> None:
        if isinstance(event, SoloScored):
            say(console, rung_line(event, rungs))

    if not console.is_terminal:
        yield print_rung
        return
    with Live(Text("scoring the untrained base …"), console=console, transient=True) as live:

        def observe(event: SoloEvent) -> None:
            words = [f"loss {event.loss:.3f}"] if event.loss == event.loss else []
            live.update(progress_line(words, event.step, steps, event.throughput))
            print_rung(event)

        yield observe


def points_of(event: SoloEvent) -> Points | None:
    """The points that an event adds to TensorBoard's curves, or None if it adds none."""
    if isinstance(event, SoloScored):
        scores = {BASE: event.scores.base, **event.scores.heads}
        values = {
            tag(chart, name): value
            for name, owner_scores in scores.items()
            for chart, value in owner_scores.charts().items()
        }
        return Points(event.step, values, scored=True)
    if isinstance(event, SoloAdvanced) and event.read:
        losses = {BASE: event.loss, **event.head_losses}
        values = {tag("loss", name): loss for name, loss in losses.items()}
        values["speed/images per second"] = event.throughput.images_per_second
        return Points(event.step, values, scored=False)
    return None


def rung_line(event: SoloScored, rungs: int) -> str:
    """A rung in one line: the base's scores, its loss, and the speed of training."""
    base = event.scores.base
    parts = [f"rung {event.rung}/{rungs}", f"step {event.step}"]
    if base.report is not None:
        parts.append(f"base k-NN {100 * base.report.knn:.1f}%")
        parts.append(f"linear {100 * base.report.linear:.1f}%")
    parts.append(f"effective rank {base.effective_rank:.1f}")
    if event.loss == event.loss:
        parts.append(f"loss {event.loss:.3f}")
    return " | ".join([*parts, *speed_words(event.throughput, last=event.rung == rungs)])


@contextmanager
def shown_verification(console: Console) -> Iterator[Callable[[Progress], None]]:
    """The observer that shows a verification: a line for each solo run that has ended.

    In a terminal it also shows the solo runs that are running.
    """

    def print_ended(progress: Progress) -> None:
        if progress.ended is not None:
            say(console, ended_line(progress))

    if not console.is_terminal:
        yield print_ended
        return
    with Live(Text("starting …"), console=console, transient=True) as live:

        def observe(progress: Progress) -> None:
            print_ended(progress)
            names = ", ".join(map(str, progress.running))
            left = f" · {_left(progress)}" if progress.seconds_left is not None else ""
            live.update(Text(f"{progress.done}/{progress.total} · running {names}{left}"))

        yield observe


def ended_line(progress: Progress) -> str:
    """A solo run that has just ended, in one line."""
    assert progress.ended is not None
    parts = [f"{progress.done}/{progress.total} {progress.ended}"]
    scores = progress.ended.scores()
    if scores is not None and progress.failure is None:
        parts.append(f"base k-NN {100 * scores['base_knn']:.1f}%")
        parts.append(f"linear {100 * scores['base_linear']:.1f}%")
    else:
        parts.append(f"failed: {progress.failure}")
    if progress.done < progress.total:
        parts.append(_left(progress))
    return " | ".join(parts)


def _left(progress: Progress) -> str:
    return f"{duration(progress.seconds_left)} left" if progress.seconds_left is not None else ""
