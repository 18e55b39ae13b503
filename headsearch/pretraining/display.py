"""Progress of pretrainings and verifications on the console, and one line for each result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from headsearch.models.network import BASE
from headsearch.pretraining.run import Pretraining
from headsearch.pretraining.solo import SoloAdvanced, SoloEvent, SoloScored, SoloScoring
from headsearch.pretraining.verification import Progress, Running
from headsearch.report.console import progress_bar, speed_words, step_words
from headsearch.report.live import can_redraw, live_area
from headsearch.report.tensorboard import Points, tag
from headsearch.runs.console import say
from headsearch.text import counted, duration

FIRST = "scoring the untrained base …"
AGAIN = "going on …"


@contextmanager
def shown(pretraining: Pretraining, console: Console) -> Iterator[Callable[[SoloEvent], None]]:
    """The observer that shows a pretraining: a line a rung, and a bar if it can be redrawn."""
    rungs, steps = pretraining.config.rungs, pretraining.setup.steps
    samples = pretraining.setup.domain.words.samples

    def print_rung(event: SoloEvent) -> None:
        if isinstance(event, SoloScored):
            say(console, rung_line(event, rungs, samples))

    first = AGAIN if pretraining.rows else FIRST
    if not can_redraw(console):
        say(console, first)
        yield print_rung
        return
    with live_area(console, Text(first)) as draw:

        def stopping() -> list[str]:
            return ["stopping"] if pretraining.stop.is_set() else []

        def observe(event: SoloEvent) -> None:
            words = [f"loss {event.loss:.3f}"] if event.loss == event.loss else []
            words += [*stopping(), *step_words(event.step, steps, event.throughput, samples)]
            draw(progress_bar(console, words, event.step, steps))
            print_rung(event)

        def scoring(event: SoloScoring) -> None:
            progress = event.progress
            words = [*stopping(), f"scoring rung {event.rung}/{rungs}"]
            words += (
                [f"{progress.heads_done}/{counted(progress.heads, 'head')}"]
                if progress.heads
                else []
            )
            draw(progress_bar(console, words, progress.share, 1))

        pretraining.show_scoring(scoring)
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


def rung_line(event: SoloScored, rungs: int, samples: str) -> str:
    """A rung in one line: the base's scores, its loss, and the speed of training."""
    base = event.scores.base
    parts = [f"rung {event.rung}/{rungs}", f"step {event.step}"]
    if base.report is not None:
        parts.append(f"base k-NN {100 * base.report.knn:.1f}%")
        parts.append(f"linear {100 * base.report.linear:.1f}%")
    parts.append(f"effective rank {base.effective_rank:.1f}")
    if event.loss == event.loss:
        parts.append(f"loss {event.loss:.3f}")
    return " | ".join([*parts, *speed_words(event.throughput, samples, last=event.rung == rungs)])


@contextmanager
def shown_verification(console: Console) -> Iterator[Callable[[Progress], None]]:
    """The observer that shows a verification: a line for each solo run that has ended.

    If it can be redrawn, also a progress bar and the steps of the runs that are running.
    """

    def print_ended(progress: Progress) -> None:
        if progress.ended is not None:
            say(console, ended_line(progress))

    if not can_redraw(console):
        yield print_ended
        return
    with live_area(console, Text("starting the solo runs …")) as draw:

        def observe(progress: Progress) -> None:
            print_ended(progress)
            words = [f"{progress.done}/{counted(progress.total, 'run')} done", _left(progress)]
            words += map(_running_words, progress.running)
            draw(progress_bar(console, words, progress.share, 1))

        yield observe


def _running_words(running: Running) -> str:
    """A solo run that is running, and its step if that is known."""
    step = f" step {running.step}/{running.steps}" if running.steps else " starting"
    return f"{running.solo}{step}"


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
