"""What a person sees of a search: no interrupt is lost, no figure of a head is dropped."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from headsearch.report import Table
from headsearch.report.console import print_table
from headsearch.report.session import carry_out
from headsearch.runs.signals import InterruptedAtOnceError
from headsearch.study.display import shown
from headsearch.study.events import Noted


class EndlessSearch:
    """A search that is interrupted in a destructor, where Python drops what is raised."""

    class prepared:  # noqa: N801
        class training:  # noqa: N801
            steps = 10

    class config:  # noqa: N801
        rungs, seeds, log = 1, 1, "none"

    complete = False
    run_directory = Path("results/run")
    closed = False
    events = 0

    def __init__(self) -> None:
        self.stop = threading.Event()

    def run(self, *observers: Any) -> None:
        class Interrupted:
            def __del__(self) -> None:
                os.kill(os.getpid(), signal.SIGINT)

        try:
            while self.events < 1000 and not self.stop.is_set():
                if self.events == 3:
                    Interrupted()
                self.events += 1
                for observe in observers:
                    observe(object())
        finally:
            self.closed = True


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_python_drops_stops_the_search_all_the_same() -> None:
    before = signal.getsignal(signal.SIGINT)
    search: Any = EndlessSearch()
    assert carry_out(search, shown(search, Console(force_terminal=False))) == signal.SIGINT
    assert search.closed
    assert search.events < 10
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    search: Any = EndlessSearch()

    def deaf(*observers: Any) -> None:
        for _ in range(1000):
            os.kill(os.getpid(), signal.SIGINT)

    search.run = deaf
    with pytest.raises(InterruptedAtOnceError) as interrupted:
        carry_out(search)
    assert interrupted.value.run_directory == search.run_directory


def test_a_table_in_a_pipe_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    name = "convnext-d3-k7-noshortcut-and-much-more"
    print_table(Console(width=240), Table(["Candidate", "k-NN (%)"], [False, True], [[name, "1"]]))
    assert name in capsys.readouterr().out


@pytest.mark.parametrize("terminal", [False, True])
def test_what_befalls_a_search_is_said_as_it_happens(
    terminal: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    search: Any = EndlessSearch()
    search.complete = True
    search.run = lambda observe: observe(Noted("the base diverged at step 12"))
    console = Console(force_terminal=terminal, width=100)
    assert carry_out(search, shown(search, console)) == 0
    assert "· the base diverged at step 12\n" in capsys.readouterr().out
