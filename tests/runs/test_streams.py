"""Output is best effort: whatever happens to a stream, nothing that writes to it fails."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rich.live import Live
from rich.text import Text

from headsearch.report import Table
from headsearch.report.console import print_table, progress_bar
from headsearch.runs.console import HarmlessConsole, loading_shown, print_notes, say
from headsearch.runs.streams import BestEffortStream, best_effort_output, is_lost
from helpers.command_line import in_process


class Failing(io.StringIO):
    """A terminal whose writes fail with an error of the system from some write on."""

    def __init__(self, number: int, after: int = 0) -> None:
        super().__init__()
        self.number, self.left = number, after

    def write(self, text: str) -> int:
        if self.left == 0:
            raise OSError(self.number, os.strerror(self.number))
        self.left -= 1
        return super().write(text)

    def isatty(self) -> bool:
        return True


class Bare:
    """An object of the caller's that can write and nothing else."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text


class Unable(Bare):
    def write(self, text: str) -> None:
        raise AttributeError("gone")


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


def in_encoding(name: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=name)


STREAMS: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "closed": closed,
    "a full disk": lambda: Failing(errno.ENOSPC),
    "a terminal that went away": lambda: Failing(errno.EIO, after=1),
    "a closed pipe": lambda: Failing(errno.EPIPE),
    "no more than write": Bare,
    "not even that": Unable,
    "ascii": lambda: in_encoding("ascii"),
    "latin-1": lambda: in_encoding("latin-1"),
}


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("case", STREAMS)
def test_everything_that_is_printed(case: str, terminal: bool) -> None:
    options: dict[str, Any] = {"force_terminal": True} if terminal else {}
    console = HarmlessConsole(file=STREAMS[case](), highlight=False, markup=False, **options)
    say(console, "8×8 → … τ ± 漢 \udcff")
    print_notes(console, ["a note"])
    print_table(console, Table(["k-NN ±"], [True], [["–"]]))
    with loading_shown(console) as loading:
        loading("decoding", 3, 7)
    with Live(Text("…"), console=console) as live:
        live.update(progress_bar(console, ["step 1/2", "…"], 1, 2))
        print("while it is live ×", file=sys.stdout)


def test_an_encoding_that_lacks_a_character_gets_a_plain_one() -> None:
    stream = in_encoding("ascii")
    BestEffortStream(stream).write("an 8×8 map … τ")
    stream.seek(0)
    assert stream.read() == "an 8x8 map ... ?"


def test_after_a_full_disk_it_is_tried_again_and_after_a_lost_terminal_it_is_not() -> None:
    full, gone = Failing(errno.ENOSPC), Failing(errno.EIO)
    for stream in (full, gone):
        best = BestEffortStream(stream)
        best.write("lost")
        stream.left = 1
        best.write("later")
        assert is_lost(best) == (stream is gone)
    assert (full.getvalue(), gone.getvalue()) == ("later", "")


@pytest.fixture
def broken_pipe() -> Iterator[io.TextIOWrapper]:
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    yield stream
    stream.close()  # would fail if what could not be written were still to be written


def test_nothing_is_left_over_for_the_end_of_python(
    broken_pipe: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", broken_pipe)
    with best_effort_output():
        print("nobody reads this")
    assert sys.stdout is broken_pipe
    broken_pipe.flush()


def test_a_search_ends_normally_without_its_terminal(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "space.yaml").write_text("families: {poolformer: {depth: 1}}\ncontrols: {}\n")
    monkeypatch.setattr(sys, "stdout", Failing(errno.EIO, after=2))
    code, _, err = in_process(
        capsys, monkeypatch, "run", "--space", str(tmp_path / "space.yaml"), "--base", "test_vit",
        "--image-size", "16", "--patch-size", "4", "--images", "64", "--epochs", "1",
        "--batch-size", "32", "--rungs", "1", "--eval-images", "64", "--bank-images", "64",
        "--threads", "1", "--device", "cpu", "--out", str(tmp_path / "run"),
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert (tmp_path / "run" / "report.html").is_file()


def test_long_lines_are_wrapped_in_a_notebook_and_not_in_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    displayed: list[str] = []
    monkeypatch.setattr("rich.jupyter.display", lambda _, text: displayed.append(text))
    note = "word " * 60
    say(HarmlessConsole(force_jupyter=True, width=80), note)
    assert max(map(len, "".join(displayed).splitlines())) <= 80
    say(HarmlessConsole(force_jupyter=False, width=80), note)
    assert len(capsys.readouterr().out.strip().splitlines()) == 1
