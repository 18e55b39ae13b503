"""Harms searches on engines, resumes them, and compares their tables with those of `run`.

    python benchmarks/chaos.py                             # all of it, as root: one needs a network
    python benchmarks/chaos.py --only "a node is killed"   # … or one, in place of its old row

For each fault a tiny search starts as `headsearch run --engine …`: on a local engine, or on a
cluster whose nodes are on this machine. Once a cohort has trained, one of its processes gets a
signal, a node is killed, or a network link is cut (the node behind it is in a network namespace of
its own). Timed is how long it takes until the driver acts on it, or until no process is left. A
search that ended is resumed. Writes results/scaling/chaos.csv.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

OUT = Path(__file__).parents[1] / "results" / "scaling" / "chaos.csv"
HEADSEARCH = [sys.executable, "-m", "headsearch"]
SETTINGS = {
    "base": "test_vit", "space": "controls.yaml", "image-size": 16, "patch-size": 4, "images": 64,
    "epochs": 20, "batch-size": 16, "rungs": 2, "eval-images": 64, "bank-images": 64,
    "min-keep": 1, "cohort": 1, "device": "cpu", "precision": "float32", "threads": 1,
}  # fmt: skip
FLAGS = [part for name, value in SETTINGS.items() for part in (f"--{name}", str(value))]
GRACE_S = 20
MARK = "HEADSEARCH_CHAOS"
"""An environment variable that all processes of a search inherit."""
WORKER, DRIVER = "ray::_perform", "-m headsearch"


SUBNET = "10.213.77"
"""Of the link between the head and the node in a network namespace."""
NAMESPACE, LINK = "headsearch-chaos", "hs-chaos"


@dataclass
class Harmed:
    """A search that is to be harmed.

    Attributes:
        run: its run directory.
        nodes: the nodes of its cluster besides the head; empty for a local engine.
    """

    run: Path
    nodes: list[Any] = field(default_factory=list)
    cluster: Any = None

    def signal(self, victim: str, number: signal.Signals) -> None:
        """Sends a signal to the process whose command line contains this."""
        pid = next(pid for pid, words in processes(self.run.name) if victim in words)
        if number == signal.SIGINT:  # as a terminal does: to all of a group
            os.killpg(pid, number)
        else:
            os.kill(pid, number)

    def kill_node(self) -> None:
        self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)

    def cut_link(self) -> None:
        """For a minute, so that what was cut off comes back and goes on."""
        ip("link", "set", LINK, "down")
        threading.Timer(60.0, lambda: ip("link", "set", LINK, "up")).start()


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        name: in a few words.
        harm: brings it about; None for none.
        acted: what the driver says when it acts on it; empty if the search ends by it.
        nodes: the nodes of the cluster; 0 for a local engine.
        apart: whether the last of the nodes is behind a network link.
    """

    name: str
    harm: Callable[[Harmed], None] | None = None
    acted: str = ""
    nodes: int = 0
    apart: bool = False


def by_signal(victim: str, number: signal.Signals) -> Callable[[Harmed], None]:
    return lambda search: search.signal(victim, number)


FAULTS = (
    Fault("SIGKILL of a worker", by_signal(WORKER, signal.SIGKILL), "its process died"),
    Fault("SIGSTOP of a worker", by_signal(WORKER, signal.SIGSTOP), "no sign of life"),
    Fault("SIGKILL of the head", by_signal("gcs_server", signal.SIGKILL)),
    Fault("SIGKILL of the driver", by_signal(DRIVER, signal.SIGKILL)),
    Fault("SIGTERM", by_signal(DRIVER, signal.SIGTERM)),
    Fault("Ctrl-C", by_signal(DRIVER, signal.SIGINT)),
    Fault("none, 1 node", nodes=1),
    Fault("none, 2 nodes", nodes=2),
    Fault("none, 4 nodes", nodes=4),
    Fault("a node is killed", Harmed.kill_node, "was lost", nodes=2),
    Fault("a link is down for 60 s", Harmed.cut_link, "no sign of life", nodes=2, apart=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", nargs="+", choices=[f.name for f in FAULTS])
    arguments = parser.parse_args()
    asked = arguments.only or [fault.name for fault in FAULTS]
    os.environ |= {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    kept = pd.read_csv(arguments.out) if arguments.out.exists() else pd.DataFrame({"fault": []})
    rows = kept[~kept["fault"].isin(asked)].to_dict("records")
    with tempfile.TemporaryDirectory() as folder:
        one = Path(folder) / "one"
        subprocess.run([*HEADSEARCH, "run", *FLAGS, "--out", one], check=True, stdout=sys.stderr)
        for fault in FAULTS:
            if fault.name in asked:
                rows.append(harmed(fault, Path(folder), one))
                pd.DataFrame(rows).to_csv(arguments.out, index=False)
    print(pd.DataFrame(rows))


def harmed(fault: Fault, folder: Path, one: Path) -> dict[str, Any]:
    """Runs a search with a fault to its end; the row of chaos.csv."""
    run = folder / fault.name.replace(" ", "-")
    environment = {**os.environ, MARK: run.name}
    with ExitStack() as stack:
        search, address = Harmed(run), "local"
        if fault.nodes:
            address = f"ray://{stack.enter_context(cluster(search, fault))}"
        given = ["--out", str(run), "--engine", address, "--grace", str(GRACE_S)]
        began = time.monotonic()
        process = subprocess.Popen(
            [*HEADSEARCH, "run", *FLAGS, *given], env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        lines = said_by(process)
        if fault.harm is not None:
            wait_until_trained(lines, fault)
            began = time.monotonic()
            fault.harm(search)
        if fault.acted:
            next(line for line in lines if fault.acted in line)
        elif fault.harm is not None:
            process.wait()
            while any(processes(run.name)):
                time.sleep(0.1)
        else:
            for _ in lines:
                pass
        seconds = time.monotonic() - began
        for _ in lines:
            pass
        resumed = process.wait() != 0
        if resumed:
            subprocess.run(
                [*HEADSEARCH, "resume", str(run)], env=environment, check=True, stdout=sys.stderr
            )
        timed = "until no process is left" if fault.harm else "the search"
        return {
            "fault": fault.name, "seconds": seconds,
            "timed": "until another attempt" if fault.acted else timed,
            "resumed": "yes" if resumed else "no", "same": same(run, one),
        }  # fmt: skip


def wait_until_trained(lines: Iterator[str], fault: Fault) -> None:
    """Until a cohort has scored a rung; on several nodes, until each has one that has."""
    left = max(1, fault.nodes)
    for line in lines:
        left -= " rung 1/2" in line
        if not left:
            return


@contextmanager
def cluster(search: Harmed, fault: Fault) -> Iterator[str]:
    """A cluster whose nodes are on this machine; gives the address of its head."""
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {
        "num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False
    }  # fmt: skip
    with ExitStack() as stack:
        if fault.apart:
            stack.enter_context(namespace())
            node["node_ip_address"] = f"{SUBNET}.1"
        search.cluster = Cluster(initialize_head=True, head_node_args=node)
        stack.callback(search.cluster.shutdown)
        for _ in range(1, fault.nodes - fault.apart):
            search.nodes.append(search.cluster.add_node(**node))
        if fault.apart:
            ray = Path(sys.executable).with_name("ray")
            started = subprocess.Popen(
                ["ip", "netns", "exec", NAMESPACE, ray, "start", "--block", "--num-cpus", "1",
                 "--address", search.cluster.address, "--node-ip-address", f"{SUBNET}.2",
                 "--object-store-memory", str(100 * 2**20)],
                stdout=sys.stderr,
            )  # fmt: skip
            stack.callback(started.wait)
            stack.callback(started.terminate)
        while len(search.cluster.global_state._live_node_ids()) < fault.nodes:
            time.sleep(1)
        yield search.cluster.address


@contextmanager
def namespace() -> Iterator[None]:
    """A network namespace with a link to this machine's, at the addresses .2 and .1."""
    ip("netns", "add", NAMESPACE)
    try:
        ip("link", "add", LINK, "type", "veth", "peer", "name", f"{LINK}-2")
        ip("link", "set", f"{LINK}-2", "netns", NAMESPACE)
        ip("addr", "add", f"{SUBNET}.1/24", "dev", LINK)
        ip("link", "set", LINK, "up")
        ip("-n", NAMESPACE, "addr", "add", f"{SUBNET}.2/24", "dev", f"{LINK}-2")
        ip("-n", NAMESPACE, "link", "set", f"{LINK}-2", "up")
        ip("-n", NAMESPACE, "link", "set", "lo", "up")
        yield
    finally:
        ip("netns", "del", NAMESPACE)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def said_by(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        sys.stderr.write(line)
        yield line


def processes(mark: str) -> Iterator[tuple[int, str]]:
    """The processes of a search with their command lines, without zombies."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if words and f"{MARK}={mark}\0".encode() in (folder / "environ").read_bytes():
                yield int(folder.name), words
        except OSError:
            continue


def same(first: Path, second: Path) -> bool:
    """Whether two runs have the same tables, measured times apart."""
    equal = all(
        (first / name).read_bytes() == (second / name).read_bytes()
        for name in ("rungs.csv", "scores.csv")
    )
    tables = [pd.read_csv(each / "ranking.csv").drop(columns="step_ms") for each in (first, second)]
    return equal and tables[0].equals(tables[1])


if __name__ == "__main__":
    main()
