"""What a person sees while a base is pretrained: a line that moves, and a line a rung."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from rich.console import Console
from rich.live import Live
from rich.text import Text

from headsearch.boards import events_of
from headsearch.pretraining import Pretraining
from headsearch.report.console import progress_line, say, speed_words
from headsearch.runs.signals import stops_heard
from headsearch.solo import SoloEvent, SoloScored


def show_pretraining(pretraining: Pretraining, console: Console) -> int:
    """Runs a pretraining and shows it as it goes, until it ends.

    Ctrl-C and SIGTERM end it early, after the step under way, with a snapshot. A second Ctrl-C does
    not wait for it.

    Returns:
        The number of the signal that ended it; 0 where it came to its end.

    Raises:
        KeyboardInterrupt: at the second Ctrl-C.
    """
    rungs = pretraining.ground.config.rungs
    with closing(events_of(pretraining)) as events, stops_heard(pretraining.stop) as heard:
        for event in _moving(events, pretraining, console) if console.is_terminal else events:
            if isinstance(event, SoloScored):
                say(console, rung_line(event, rungs))
    return 0 if pretraining.complete else heard.number


def _moving(
    events: Iterator[SoloEvent], pretraining: Pretraining, console: Console
) -> Iterator[SoloEvent]:
    """The events, above a line that shows the latest."""
    steps = pretraining.ground.steps
    with Live(Text("scoring the untrained base …"), console=console, transient=True) as live:
        for event in events:
            words = [f"loss {event.loss:.3f}"] if event.loss == event.loss else []
            live.update(progress_line(words, event.step, steps, event.pace))
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
    return " | ".join([*parts, *speed_words(event.pace, last=event.rung == rungs)])
