"""Ray as the engine: on this machine, or on a cluster of machines that Ray runs on.

Ray places each task on a machine with a free GPU (or free cores), starts a process for it and says
when that is lost. It repeats nothing and keeps nothing: retries and results are the driver's.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headsearch.cluster.choices import LOCAL, REMOTE
from headsearch.cluster.engine import Ended, EngineGoneError, Heard, Message, News
from headsearch.cluster.rank_group import RankGroup
from headsearch.cluster.task import perform
from headsearch.device import cores_here
from headsearch.errors import UserError

TOKEN_FILE = Path("~/.ray/auth_token")
"""Where Ray looks for the token of a cluster by default."""
STORE_BYTES = 100 * 2**20
"""Size of the object store of a local engine, which holds only messages."""
LONGEST_PATH = 30
"""The longest path in which Ray can make its sockets, whose own names take up to 75 characters of
the 107 that Linux allows."""
GONE_S = 20.0
"""Seconds after which a head that does not answer counts as gone. Ray itself ends the process after
60 s, without a word of how to go on."""
CHECK_S = 5.0
"""Seconds between two looks at the head and at the machines."""


@contextmanager
def connected(spec: str, *, cpus: int, gpu: bool, processes: int = 1) -> Iterator[RayEngine]:
    """The engine that `--engine` names, connected in this block.

    Args:
        spec: the value of `--engine`.
        cpus: the cores that each process of a task takes.
        gpu: whether each process takes a GPU.
        processes: the number of processes that train each cohort.

    Raises:
        UserError: it cannot be reached, or has not what a task needs.
    """
    folder = _local_folder() if spec == LOCAL else None
    _authenticate(spec)
    ray = importlib.import_module("ray")
    # Otherwise Ray's own goodbye would take a minute, and end this process, if its head is gone.
    atexit.unregister(ray._private.worker.shutdown)
    # Ray would print a paragraph about each process that is lost; the driver says it in a line.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    engine = None
    try:
        _connect(ray, spec, folder)
        engine = RayEngine(ray, cpus=cpus, gpu=gpu, processes=processes)
        yield engine
    finally:
        if engine is None or not engine.gone:
            ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _local_folder() -> Path:
    """A new folder for the sockets and logs of a local engine."""
    short = len(tempfile.gettempdir()) <= LONGEST_PATH
    return Path(tempfile.mkdtemp(prefix="hs-", dir=None if short else "/tmp"))


def _authenticate(spec: str) -> None:
    """Sets Ray's environment: nobody without the token can join a cluster or use it.

    A local engine has a token of its own, which no file holds.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would send statistics of its use
    os.environ.setdefault("RAY_worker_niceness", "0")  # tasks would give way to all other work
    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if spec == LOCAL:
        os.environ["RAY_AUTH_MODE"] = "token"
        if not given:
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    elif given or TOKEN_FILE.expanduser().is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    if "ray" in sys.modules:  # imported before: it reads the environment again
        importlib.import_module("ray._raylet").Config.initialize("")


def _connect(ray: Any, spec: str, folder: Path | None) -> None:
    """Starts a local engine, or joins a cluster.

    Raises:
        UserError: that fails, or this process uses Ray already.
    """
    if ray.is_initialized():
        raise UserError("Ray is in use in this process already: call ray.shutdown() first")
    if folder is not None:
        where: dict[str, Any] = {
            "num_cpus": cores_here(), "include_dashboard": False, "_temp_dir": str(folder),
            "object_store_memory": STORE_BYTES,
        }  # fmt: skip
    else:
        where = {"address": spec.removeprefix(REMOTE)}
    try:
        if spec.startswith(REMOTE):
            _ask_head(ray, where["address"])
        ray.init(**where, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # each kind of failure has its own class, some of them plain
        raise UserError(f"--engine {spec}: {_why_not_connected(error)}") from None


def _ask_head(ray: Any, address: str) -> None:
    """Asks a head whether it lets this process in; `ray.init` would ask for 20 s, and not say why.

    Raises:
        Exception: an error of the connection, or of Ray.
    """
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=CHECK_S).close()
    with _silent_stderr():
        ray._raylet.GcsClient(address=address)


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """In this block, nothing reaches standard error, not even from Ray's code in C++."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def _why_not_connected(error: Exception) -> str:
    """Why Ray could not be reached, in a line with what to do."""
    text = " ".join(str(error).split())
    if type(error).__name__ == "AuthenticationError" or "InvalidAuthToken" in text:
        return (
            "refused, because this machine has no token of the cluster or a wrong one: set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with it"
        )
    if "ersion mismatch" in text:
        return f"{text[:300]}: install the same versions on all machines"
    if isinstance(error, OSError):
        return (
            f"no Ray cluster answers there ({text[:100]}); on its head: ray start --head, and on "
            "this machine: ray start --address HOST:PORT"
        )
    return f"{type(error).__name__}: {text[:300]}"


class RayEngine:
    """Runs tasks on a Ray cluster that this process is connected to; see `engine.Engine`.

    Args:
        ray: the module.
        cpus: the cores that each process of a task takes.
        gpu: whether each process takes a GPU.
        processes: the number of processes that train each cohort.

    Attributes:
        gone: whether the head of the cluster is gone.

    Raises:
        UserError: the cluster has not what a task needs.
    """

    def __init__(self, ray: Any, *, cpus: int, gpu: bool, processes: int = 1) -> None:
        self._ray, self.gone = ray, False
        self._head = ray.get_runtime_context().gcs_address.rpartition(":")
        self._machines: dict[str, str] = {}
        self._checked_at = self._answered_at = time.monotonic()
        self._look()
        self._bundle = {"CPU": cpus, **({"GPU": 1} if gpu else {})}
        self._check_fits(processes)
        self._perform = ray.remote(
            num_cpus=cpus,
            num_gpus=1 if gpu else 0,
            max_retries=0,
            max_calls=1,  # a fresh process for each
            num_returns="streaming",
        )(_perform)
        self._streams: dict[int, Any] = {}
        self._numbers: dict[Any, int] = {}
        self._groups: dict[int, RankGroup] = {}
        self._started = 0

    def start(self, order: Message, avoid: Collection[str] = ()) -> int:
        selector = {"ray.io/node-id": f"!in({','.join(avoid)})"} if avoid else None
        self._started += 1
        if order.get("processes", 1) > 1:
            group = RankGroup(self._ray, self._perform, order, self._bundle, selector)
            self._groups[self._started] = group
            stream = group.start_first()
        else:
            task = self._perform.options(label_selector=selector) if selector else self._perform
            stream = task.remote(json.dumps(order))
        self._streams[self._started], self._numbers[stream] = stream, self._started
        return self._started

    def news(self, seconds: float) -> list[News]:
        self._check_head()
        if not self._streams:
            time.sleep(seconds)
            return []
        of_ranks = {s: task for task, group in self._groups.items() for s in group.others}
        streams = [*of_ranks, *self._streams.values()]  # others first: they say why they ended
        self._ray.wait(streams, num_returns=1, timeout=seconds, fetch_local=False)
        ready, _ = self._ray.wait(streams, num_returns=len(streams), timeout=0, fetch_local=False)
        news: list[News] = []
        for stream in ready:
            if stream in of_ranks:
                news += self._next_of_rank(of_ranks[stream], stream)
            else:
                news += self._next(stream)
        return news

    def cancel(self, task: int, *, force: bool) -> None:
        if task in self._streams:
            self._ray.cancel(self._streams[task], force=force)
        if force and task in self._groups:
            self._groups.pop(task).end()

    def machines(self) -> Mapping[str, str]:
        return self._machines

    def _next(self, stream: Any) -> Iterator[News]:
        """What comes next from the task of a stream that has something."""
        task, errors = self._numbers[stream], self._ray.exceptions
        try:
            message = json.loads(self._ray.get(next(stream)))
            if message["kind"] == "begun" and task in self._groups:
                self._groups[task].start_others(message["meeting"])
        except StopIteration:
            yield self._ended(task)
        except errors.TaskCancelledError:
            yield self._ended(task, "it was cancelled")
        except errors.RayTaskError as error:  # before the task's own code could report it
            reason = " ".join(str(error.cause or error).split())[:300]
            yield Heard(task, {"kind": "failed", "reason": reason})
            yield self._ended(task)
        except errors.RayError as error:
            yield self._ended(task, _how_lost(error))
        else:
            yield Heard(task, message)

    def _next_of_rank(self, task: int, stream: Any) -> Iterator[News]:
        """What comes next from a process of a task that is not the first.

        It ends as the first one tells it to, or fails, and the task with it.
        """
        group = self._groups.get(task)
        if group is None:  # the task has ended since
            return
        try:
            message = json.loads(self._ray.get(next(stream)))
        except StopIteration:
            group.others.pop(stream)
        except self._ray.exceptions.RayError as error:
            yield Heard(task, {"kind": "lost", "reason": f"in one process, {_how_lost(error)}"})
            self.cancel(task, force=True)
        else:
            if message["kind"] == "begun":
                group.others[stream] = message
            elif message["kind"] in ("failed", "refused"):
                yield Heard(task, group.others[stream])  # where it failed
                yield Heard(task, message)
                self.cancel(task, force=True)

    def _ended(self, task: int, reason: str | None = None) -> Ended:
        del self._numbers[self._streams.pop(task)]
        if task in self._groups:
            self._groups.pop(task).end()
        return Ended(task, reason)

    def _check_head(self) -> None:
        """Looks at the head and the machines now and then.

        Raises:
            EngineGoneError: the head has not answered for too long.
        """
        now = time.monotonic()
        if not self.gone and now - self._checked_at >= CHECK_S:
            host, _, port = self._head
            try:
                socket.create_connection((host, int(port)), timeout=CHECK_S).close()
                self._look()
            except (OSError, self._ray.exceptions.RayError):
                self.gone = now - self._answered_at > GONE_S
            else:
                self._answered_at = now
            self._checked_at = time.monotonic()
        if self.gone:
            raise EngineGoneError(
                f"the head of the Ray cluster ({''.join(self._head)}) does not answer any more"
            )

    def _look(self) -> None:
        """Notes which machines are alive."""
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        self._machines = {node["NodeID"]: node["NodeManagerHostname"] for node in nodes}
        self._resources = [node["Resources"] for node in nodes]

    def _check_fits(self, processes: int) -> None:
        """Raises UserError if the machines have not what the processes of a task need."""
        cpus = self._bundle["CPU"]
        if "GPU" in self._bundle and not any(each.get("GPU") for each in self._resources):
            raise UserError("--engine: no machine of it has a GPU; give --device cpu to do without")
        most_cpus = max((int(each.get("CPU", 0)) for each in self._resources), default=0)
        if cpus > most_cpus:
            raise UserError(
                f"--engine: a cohort takes {cpus} cores (--threads), and the largest machine of it "
                f"has {most_cpus}"
            )
        room = sum(
            min(int(each.get(name, 0)) // count for name, count in self._bundle.items())
            for each in self._resources
        )
        if processes > room:
            raise UserError(f"--processes {processes}: the engine has room for {room} at a time")


def _perform(order: str) -> Iterator[str]:
    """The task, as Ray runs it."""
    ray = sys.modules["ray"]
    node = str(ray.get_runtime_context().get_node_id())
    yield from perform(order, node, ray.util.get_node_ip_address())


def _how_lost(error: Exception) -> str:
    """How a task was lost, in a few words."""
    words = {
        "WorkerCrashedError": "its process died",
        "NodeDiedError": "its machine was lost",
        "OutOfMemoryError": "its machine ran out of memory",
        "OwnerDiedError": "its driver died",
    }
    return words.get(type(error).__name__, f"{type(error).__name__}")
