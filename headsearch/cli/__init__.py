"""The command line's entry point. Imports little before its first word; `commands.py` has the rest.

A command may be interrupted, and may lose its output, from its first moment on.
"""

from __future__ import annotations

import signal
import sys

from headsearch import torchrun
from headsearch.runs.signals import Heard, interrupts_raised, stop_with_parent
from headsearch.runs.streams import best_effort_output

SLOW_TO_START = ("run", "resume", "pretrain", "verify", "explain", "bench")
"""Commands that import PyTorch before they have anything to say."""


def main() -> None:
    """The entry point. Errors that a user can cause print one line and exit with code 2."""
    with best_effort_output():
        with interrupts_raised(_acknowledge) as heard:
            code = _carried_out(heard)
        if code is None:
            print("headsearch: interrupted", file=sys.stderr)
            code = 128 + (heard.number or signal.SIGINT)
    sys.exit(code)


def _carried_out(heard: Heard) -> int | None:
    """Carries out the command that was given.

    Args:
        heard: the stop signal that interrupted this process, if any.

    Returns:
        Its exit code; None if it was interrupted.
    """
    try:
        stop_with_parent()
        _first_word(sys.argv[1:])
        from headsearch.cli.commands import carry_out

        return carry_out()
    except SystemExit:
        raise
    except BaseException as error:
        # An interrupt may turn into any error in the middle of an import.
        if not heard.number and not isinstance(error, KeyboardInterrupt):
            raise
        return None


def _first_word(arguments: list[str]) -> None:
    """Says at once that a command has started which takes seconds to load."""
    command = arguments[0] if arguments else ""
    if command in SLOW_TO_START and not {"-h", "--help"} & {*arguments} and torchrun.first():
        from headsearch.version import VERSION  # takes longer than the rest of this module

        # The results of a benchmark may be piped.
        file = sys.stderr if command == "bench" else sys.stdout
        print(f"headsearch {VERSION}: starting {command} …", file=file, flush=True)


def _acknowledge(number: int) -> None:
    # In one piece: the main thread may be printing too.
    sys.stderr.write(f"headsearch: {signal.Signals(number).name}, stopping …\n")
    sys.stderr.flush()
