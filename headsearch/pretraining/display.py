"""What a person sees while a base is pretrained: a line that moves, and a line a rung."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from rich.console import Console
from rich.live import Live
from rich.text import Text

from headsearch.boards import events_of
from headsearch.pretraining.run import Pretraining
from headsearch.pretraining.solo import SoloEvent, SoloScored
from headsearch.pretraining.verification import Progress, Verification
from headsearch.report.console import progress_line, say, speed_words
from headsearch.runs.signals import interrupts_heard, stops_heard, until
from headsearch.text import duration


def show_pretraining(pretraining: Pretraining, console: Console) -> int:
    """Runs a pretraining and shows it as it goes, until it ends.

    Ctrl-C and SIGTERM end it early, after the step under way, with a snapshot. A second Ctrl-C does
    not wait for it.

    Returns:
        The number of the signal that ended it; 0 where it came to its end.

    Raises:
        KeyboardInterrupt: at the second Ctrl-C.
    """
    rungs = pretraining.setup.config.rungs
    with closing(events_of(pretraining)) as events, stops_heard(pretraining.stop) as heard:
        for event in _moving(events, pretraining, console) if console.is_terminal else events:
            if isinstance(event, SoloScored):
                say(console, rung_line(event, rungs))
    return 0 if pretraining.complete else heard.number


def _moving(
    events: Iterator[SoloEvent], pretraining: Pretraining, console: Console
) -> Iterator[SoloEvent]:
    """The events, above a line that shows the latest."""
    steps = pretraining.setup.steps
    with Live(Text("scoring the untrained base …"), console=console, transient=True) as live:
        for event in events:
            words = [f"loss {event.loss:.3f}"] if event.loss == event.loss else []
            live.update(progress_line(words, event.step, steps, event.throughput))
            yield event


def rung_line(event: SoloScored, rungs: int) -> str:
    """A rung in one line: the base's scores, its loss, and how fast it goes."""
    base = event.scores.base
    parts = [f"rung {event.rung}/{rungs}", f"step {event.step}"]
    if base.report is not None:
        parts.append(f"base k-NN {100 * base.report.knn:.1f}%")
        parts.append(f"linear {100 * base.report.linear:.1f}%")
    parts.append(f"effective rank {base.effective_rank:.1f}")
    if event.loss == event.loss:
        parts.append(f"loss {event.loss:.3f}")
    return " | ".join([*parts, *speed_words(event.throughput, last=event.rung == rungs)])


def show_verification(verification: Verification, console: Console) -> None:
    """Carries out the solo runs and shows how they stand, until all have ended.

    Ctrl-C and SIGTERM end it early: KeyboardInterrupt is raised with the signal's number, and what
    was done is kept.
    """
    with closing(verification.carry_out()) as events, interrupts_heard() as signals:
        heard = until(signals, events)
        if not console.is_terminal:
            for progress in heard:
                if progress.ended is not None:
                    say(console, ended_line(progress))
            return
        with Live(Text("starting …"), console=console, transient=True) as live:
            for progress in heard:
                if progress.ended is not None:
                    say(console, ended_line(progress))
                names = ", ".join(map(str, progress.running))
                left = f" · {_left(progress)}" if progress.seconds_left is not None else ""
                live.update(Text(f"{progress.done}/{progress.total} · running {names}{left}"))


def ended_line(progress: Progress) -> str:
    """A solo run that ended, in one line."""
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
