"""Stop signals: acknowledged at once, and nothing is left behind without a word."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headsearch.config.settings import resolve
from headsearch.runs.directory import claimed
from headsearch.runs.signals import (
    STOPPING,
    WITH_PARENT,
    InterruptedAtOnceError,
    interrupts_raised,
    stops_heard,
)
from helpers.command_line import in_process


def long_call() -> None:
    """A call of C code, during which Python runs no handler of a signal."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", 200_000)


@pytest.fixture(autouse=True)
def nothing_is_ignored() -> Iterator[None]:
    """Also where the tests themselves run under nohup."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    for number, handler in before.items():
        if handler is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOPPING, ids=lambda number: signal.Signals(number).name)
def test_a_signal_stops_and_is_acknowledged_even_in_a_long_call(number: int) -> None:
    before = [signal.getsignal(each) for each in STOPPING]
    stop, heard_at = threading.Event(), []
    started = time.monotonic()
    with stops_heard(stop, lambda n: heard_at.append((n, time.monotonic() - started))) as heard:
        sender = threading.Timer(0.01, os.kill, (os.getpid(), number))
        sender.start()
        long_call()
        took = time.monotonic() - started
        assert stop.wait(5)
        sender.join()
    assert heard.number == number
    assert [n for n, _ in heard_at] == [number]
    assert heard_at[0][1] < took
    assert [signal.getsignal(each) for each in STOPPING] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_signals_that_are_ignored_or_taken_are_left_alone() -> None:
    taken: list[int] = []
    before = {n: signal.getsignal(n) for n in (signal.SIGHUP, signal.SIGUSR1)}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    signal.signal(signal.SIGUSR1, lambda number, frame: taken.append(number))
    try:
        with stops_heard(stop := threading.Event()):
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGUSR1)
            long_call()
        assert not stop.is_set()
        assert taken == [signal.SIGUSR1]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_an_interrupt_that_python_drops_comes_again() -> None:
    class Interrupted:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    def wait() -> None:
        Interrupted()
        time.sleep(5)

    with interrupts_raised() as heard:
        with pytest.raises(KeyboardInterrupt):
            wait()
        assert heard.number == signal.SIGTERM


@pytest.mark.parametrize("turned_into", [KeyboardInterrupt, ImportError])
def test_a_command_that_is_interrupted_while_it_loads_ends_with_one_line(
    turned_into: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An interrupt in the middle of an import may come out as another error."""

    def loading(*_: Any) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            long_call()
        except KeyboardInterrupt:
            raise turned_into from None

    monkeypatch.setattr("headsearch.cli.commands.carry_out", loading)
    code, out, err = in_process(capsys, monkeypatch, "verify", "results/RUN")
    assert code == 128 + signal.SIGTERM
    assert out.startswith("headsearch ")
    assert sorted(err.splitlines()) == [
        "headsearch: SIGTERM, stopping …", "headsearch: interrupted"
    ]  # fmt: skip


def test_a_run_that_is_interrupted_while_it_loads_is_named(tmp_path: Path) -> None:
    """If anything of it is left: a directory with nothing but its settings is removed."""
    config = resolve({"out": tmp_path / "run"})
    with pytest.raises(KeyboardInterrupt) as removed, claimed(config, {}) as directory:
        raise InterruptedAtOnceError(directory, number=signal.SIGHUP)
    assert (type(removed.value), removed.value.args) == (KeyboardInterrupt, (signal.SIGHUP,))
    assert not directory.exists()

    def interrupt(directory: Path) -> None:
        (directory / "left_out.txt").write_text("a.png: no image")
        raise KeyboardInterrupt(int(signal.SIGHUP))

    with pytest.raises(InterruptedAtOnceError) as interrupted, claimed(config, {}) as directory:
        interrupt(directory)
    error = interrupted.value
    assert (error.run_directory, error.begun, error.number) == (directory, False, signal.SIGHUP)
    assert (directory / "config.yaml").is_file()


def test_a_process_follows_its_parent() -> None:
    code = (
        "import threading\n"
        "from headsearch.runs.signals import stop_with_parent, stops_heard\n"
        "with stops_heard(stop := threading.Event()) as heard:\n"
        "    stop_with_parent(); print('ready', flush=True); stop.wait(); print(heard.number)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, WITH_PARENT: "1"}, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    assert child.poll() is None
    out, _ = child.communicate(timeout=30)  # closes its standard input
    assert out == f"{int(signal.SIGTERM)}\n"
