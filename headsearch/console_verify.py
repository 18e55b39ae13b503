"""What a person sees while heads are verified: a line that moves, and a line a solo run."""

from __future__ import annotations

from contextlib import closing

from rich.console import Console
from rich.live import Live
from rich.text import Text

from headsearch.report.console import say
from headsearch.runs.signals import interrupts_heard, until
from headsearch.text import duration
from headsearch.verification import Progress, Verification


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
