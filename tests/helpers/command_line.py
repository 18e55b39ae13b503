"""The command line in this process: what it prints, and the code that it ends with."""

from __future__ import annotations

import sys

import pytest

from headsearch import cli


def in_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, str, str]:
    """Runs a command; gives its exit code and what it wrote to standard output and error."""
    monkeypatch.setattr(sys, "argv", ["headsearch", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    code = stop.value.code
    return (code if isinstance(code, int) else 0), captured.out, captured.err
