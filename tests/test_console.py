"""What a person sees of a search: no interrupt is lost, no figure of a head is dropped."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from headsearch.console import print_table, show
from headsearch.report import Table


class EndlessSearch:
    """A search that is interrupted once, in a destructor, where Python drops the exception."""

    class prepared:  # noqa: N801
        steps = 10

    class config:  # noqa: N801
        rungs = 1

    closed = False
    events = 0

    def run(self) -> Iterator[Any]:
        class Interrupted:
            def __del__(self) -> None:
                os.kill(os.getpid(), signal.SIGINT)

        try:
            while self.events < 1000:
                if self.events == 3:
                    Interrupted()
                self.events += 1
                yield object()
        finally:
            self.closed = True


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_python_drops_stops_the_search_all_the_same() -> None:
    before = signal.getsignal(signal.SIGINT)
    search: Any = EndlessSearch()
    with pytest.raises(KeyboardInterrupt):
        show(search, Console(force_terminal=False))
    assert search.closed
    assert search.events < 10
    assert signal.getsignal(signal.SIGINT) is before


def test_a_table_in_a_pipe_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    name = "convnext-d3-k7-noshortcut-and-much-more"
    print_table(Console(width=240), Table(["Candidate", "k-NN (%)"], [False, True], [[name, "1"]]))
    assert name in capsys.readouterr().out
