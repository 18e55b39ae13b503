"""Several processes of one job on this machine: as torchrun starts them, or forked."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
from multiprocessing.context import ForkProcess
from pathlib import Path
from time import monotonic

TESTS = Path(__file__).parents[1]
"""From here the scripts of helpers/jobs import the other helpers."""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def torchrun(processes: int, *command: str | Path) -> subprocess.Popen[str]:
    """Starts a job: a script or `-m module`, and its arguments."""
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes),
         "--master-addr", "127.0.0.1", "--master-port", str(free_port()), *map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


class ForkedJob:
    """The same job as that of `torchrun`, forked from this process, which spares the imports.

    A single process is not part of any job. Nobody ends the others where one has died: they find
    out by themselves.

    Args:
        processes: how many.
        command: a script or `-m module`, and its arguments.
        cwd: the directory to work in.
        terminal: the terminal that they read and write; without one, what they write is kept.

    Attributes:
        returncode: 0, or that of the first process that ended otherwise.
    """

    def __init__(
        self,
        processes: int,
        *command: str | Path,
        cwd: Path | None = None,
        terminal: int | None = None,
    ) -> None:
        self.returncode = 0
        self._cwd, self._terminal = cwd, terminal
        fork, port = multiprocessing.get_context("fork"), free_port()
        self._folder = Path(tempfile.mkdtemp())
        for name in ("out", "err"):
            (self._folder / name).touch()
        self._ranks: list[ForkProcess] = []
        for rank in range(processes):
            job = {
                "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes,
                "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                "TORCHELASTIC_RUN_ID": "none",
            }  # fmt: skip
            variables = {name: str(value) for name, value in job.items()} if processes > 1 else {}
            child = fork.Process(target=self._work, args=(variables, [*map(str, command)]))
            child.start()
            self._ranks.append(child)

    def _work(self, variables: dict[str, str], command: list[str]) -> None:
        """What a process of the job does, with standard streams of its own."""
        os.environ.update(variables)
        if self._cwd is not None:
            os.chdir(self._cwd)
        for number, name in enumerate(("in", "out", "err")):
            handle = self._terminal
            if handle is None:
                handle = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            os.dup2(handle, number)
        sys.stdin = os.fdopen(0, closefd=False)
        sys.stdout = os.fdopen(1, "w", 1, closefd=False)
        sys.stderr = os.fdopen(2, "w", 1, closefd=False)
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            runpy.run_path(command[0], run_name="__main__")

    def wait_until_it_says(self, words: str) -> None:
        """Waits until the processes have written this to standard output."""
        while words not in (self._folder / "out").read_text():
            assert not self.ends_within(0.02), (self._folder / "err").read_text()[-3000:]

    def ends_within(self, seconds: float) -> bool:
        """Waits for the end of all, but no longer than this; whether they have ended."""
        until = monotonic() + seconds
        for child in self._ranks:
            child.join(max(0.0, until - monotonic()))
        return not any(child.is_alive() for child in self._ranks)

    def send_signal(self, number: int) -> None:
        """Sends a signal to every process."""
        for child in self._ranks:
            assert child.pid is not None
            os.kill(child.pid, number)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Waits for the end of all; what they wrote to standard output and error."""
        until = monotonic() + timeout
        for child in self._ranks:
            child.join(max(0.0, until - monotonic()))
        stuck = [child for child in self._ranks if child.is_alive()]
        for child in stuck:
            child.kill()
            child.join()
        out, err = ((self._folder / name).read_text() for name in ("out", "err"))
        shutil.rmtree(self._folder)
        assert not stuck, err[-3000:]
        self.returncode = next((child.exitcode for child in self._ranks if child.exitcode), 0)
        return out, err
