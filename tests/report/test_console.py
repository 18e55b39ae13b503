"""What a person sees of a search: no interrupt is lost, no figure of a head is dropped."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from headsearch.config.domains import AUDIO
from headsearch.data.domains import DOMAINS
from headsearch.evaluation.rung import ScoringProgress
from headsearch.report import Table, ranking_table
from headsearch.report.console import print_table, progress_bar
from headsearch.report.live import can_redraw, live_area
from headsearch.report.session import carry_out
from headsearch.runs.console import HarmlessConsole, loading_shown
from headsearch.runs.signals import InterruptedAtOnceError
from headsearch.study.display import shown
from headsearch.study.events import Noted, Scoring
from headsearch.study.leaderboard import Leaderboard
from helpers import synthetic_runs


class EndlessSearch:
    """A search that is interrupted in a destructor, where Python drops what is raised."""

    class prepared:  # noqa: N801
        class training:  # noqa: N801
            steps = 10
            domain = DOMAINS[AUDIO]

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


LONG = "convnext-d3-k7-noshortcut-of-a-family-with-a-very-long-name-and-w2.5"


def shown_at(width: int, table: Table) -> str:
    file = io.StringIO()
    print_table(HarmlessConsole(file=file, force_terminal=True, width=width, color_system=None,
                                highlight=False, markup=False, _environ={}), table)  # fmt: skip
    lines = file.getvalue().splitlines()
    assert all(len(line.rstrip()) <= width for line in lines)
    assert "…" not in file.getvalue()
    return file.getvalue()


@pytest.mark.parametrize("width", [120, 80, 60])
def test_a_ranking_has_fewer_columns_in_a_narrow_terminal_and_cuts_none(
    width: int, tmp_path: Path
) -> None:
    run = synthetic_runs.run(tmp_path)
    table = ranking_table(run, compact=True)
    shown = shown_at(width, table)
    for row in table.rows:
        assert re.search(rf"^ *{re.escape(row[0])} .*{re.escape(row[1])} ", shown, re.MULTILINE)
    words = " ".join(shown.split())
    for heading in table.headings:
        assert heading in words  # as a column, or in the line that says which have no room
    assert ("the terminal is too narrow" in shown) == (width < 120)
    assert "k-NN (%)" in shown.split("no room")[0]


@pytest.mark.parametrize("width", [80, 60])
def test_a_name_that_is_too_long_is_folded_and_its_figures_stay(width: int) -> None:
    table = Table(
        ["Rank", "Candidate", "k-NN (%)", "Params (M)"],
        [True, False, True, True],
        [["1 [1–3]", LONG, "45.9", "0.16"], ["12", "own-d2", "41.6", "0.22"]],
        ["Params (M)", "k-NN (%)"],
    )
    shown = shown_at(width, table)
    cells = [line[9:].split()[0] for line in shown.splitlines()[1:] if line[9:].strip()]
    assert "".join(cells).startswith(LONG + "own-d2") or LONG in shown
    assert "1 [1–3]" in shown
    assert (LONG in shown) == (width == 80)
    assert ("45.9" in shown) == (width == 60)  # where it is folded in any case


def test_words_beside_a_bar_go_on_in_a_second_line_and_keep_their_units() -> None:
    words = [
        "stopping",
        "cohort 1/12",
        "rung 2/4",
        "step 1100/1200",
        "5000 images/s",
        "14 min left",
    ]
    for width in (120, 80, 60, 40):
        file = io.StringIO()
        console = Console(file=file, width=width, force_terminal=True, color_system=None)
        console.print(progress_bar(console, words, 3, 4))
        assert all(word in file.getvalue() for word in words)


def test_a_dumb_terminal_gets_lines_and_a_live_one_a_table() -> None:
    for term, redrawn in (("dumb", False), ("xterm", True)):
        console = HarmlessConsole(
            file=io.StringIO(), force_terminal=True, _environ={"TERM": term, "COLUMNS": "80"}
        )
        assert can_redraw(console) == redrawn
        with loading_shown(console) as loading:
            loading("importing PyTorch")
        text = console.file.getvalue()
        assert "importing PyTorch" in text
        assert ("\x1b" in text) == redrawn


def test_scoring_moves_a_bar_over_the_heads() -> None:
    search: Any = EndlessSearch()
    file = io.StringIO()
    console = HarmlessConsole(
        file=file, force_terminal=True, width=80, color_system=None, _environ={"TERM": "xterm"}
    )
    leaderboard = Leaderboard()
    with shown(search, console):
        for done in (0, 3):
            progress = ScoringProgress(done, 12, done / 12)
            search.on_scoring(Scoring(0, 1, progress, leaderboard))
            # The display draws four times a second, if it has the time.
            until = time.monotonic() + 60
            while f"scoring rung 1/1 · {done}/12 heads" not in file.getvalue():
                assert time.monotonic() < until
                time.sleep(0.05)


def test_a_notebook_gets_one_display_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    class Handle:
        def update(self, html: str) -> None:
            drawn.append(html)

    def display(*content: Any, display_id: bool = False, **_: Any) -> Handle | None:
        drawn.extend(map(str, content))
        return Handle() if display_id else None

    fake = types.ModuleType("IPython.display")
    vars(fake).update(HTML=str, display=display)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", fake)
    console = HarmlessConsole(force_jupyter=True, width=80)
    assert can_redraw(console)
    monkeypatch.setattr("headsearch.report.live.REDRAW_S", 0)
    with live_area(console, "starting …") as draw:
        draw(progress_bar(console, ["step 1/2", "<b>"], 1, 2))
    first, second, last = drawn
    assert "starting …" in first
    assert "━" in second
    assert "step 1/2 · &lt;b&gt;" in second
    assert "step" not in last


def test_a_signal_is_acknowledged_on_the_console(capsys: pytest.CaptureFixture[str]) -> None:
    search: Any = EndlessSearch()
    console = HarmlessConsole(width=200)
    assert carry_out(search, shown(search, console), console=console) == signal.SIGINT
    assert "SIGINT: stopping after this step" in capsys.readouterr().out
