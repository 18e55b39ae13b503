"""The events of a run one by one: the run stands still while the test looks at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from greenlet import getcurrent, greenlet


class Closed(Exception):  # noqa: N818 - it stands for whoever looks away
    """What an observer raises where the test looks no further: the run stops as for an error."""


def stepwise(run: Callable[..., None]) -> Iterator[Any]:
    """Runs `run(observer)` from one event to the next; closing the iterator stops it."""
    test = getcurrent()
    running = greenlet(lambda: run(test.switch))
    event = running.switch()
    try:
        while not running.dead:
            yield event
            event = running.switch()
    except GeneratorExit:
        try:
            running.throw(Closed)
            while not running.dead:  # what is observed after that is not looked at
                running.throw(Closed)
        except Closed:
            pass
        raise
