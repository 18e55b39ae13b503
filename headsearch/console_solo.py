"""What a person sees while a base is pretrained: a line that moves, and a line a rung."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from rich.console import Console
from rich.live import Live
from rich.text import Text

from headsearch.console import interrupts_heard, progress_line, say, speed_words, until
from headsearch.pretraining import Pretraining
from headsearch.solo import SoloEvent, SoloScored


def show_pretraining(pretraining: Pretraining, console: Console) -> None:
    """Runs a pretraining and shows it as it goes, until it ends.

    Ctrl-C ends it early: KeyboardInterrupt is raised, and what the last rung left is there.
    """
    rungs = pretraining.ground.config.rungs
    with closing(pretraining.run()) as events, interrupts_heard() as interrupted:
        heard = until(interrupted, events)
        for event in _moving(heard, pretraining, console) if console.is_terminal else heard:
            if isinstance(event, SoloScored):
                say(console, rung_line(event, rungs))


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
