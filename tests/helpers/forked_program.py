"""Programs of this package that the code starts, forked from this process instead."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping
from typing import IO, Any


class ForkedProgram:
    """What the code uses of `subprocess.Popen([python, "-m", module, …])`, without the imports.

    Attributes:
        stdin: the writing end of the program's standard input.
        returncode: None while it runs.
    """

    def __init__(
        self,
        command: list[str],
        *,
        stdin: int,
        stdout: IO[bytes],
        stderr: IO[bytes],
        env: Mapping[str, str],
    ) -> None:
        python, option, *arguments = command
        assert (python, option) == (sys.executable, "-m")
        reader, writer = os.pipe()
        self.stdin = os.fdopen(writer, "wb")
        self.returncode: int | None = None
        streams = (reader, stdout.fileno(), stderr.fileno())
        self._child = multiprocessing.get_context("fork").Process(
            target=self._work, args=(arguments, streams, dict(env))
        )
        self._child.start()
        os.close(reader)

    def _work(self, arguments: list[str], streams: tuple[int, ...], env: dict[str, str]) -> None:
        self.stdin.close()
        os.environ.update(env)
        for number, handle in enumerate(streams):
            os.dup2(handle, number)
        sys.stdin = os.fdopen(0, closefd=False)
        sys.stdout = os.fdopen(1, "w", 1, closefd=False)
        sys.stderr = os.fdopen(2, "w", 1, closefd=False)
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._child.exitcode
        return self.returncode

    def wait(self) -> Any:
        self._child.join()
        return self.poll()

    def terminate(self) -> None:
        self._child.terminate()
