"""Searches on a real Ray cluster of two nodes on this machine, and what faults do to them."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
import pytest

from headsearch.cluster import driver
from headsearch.cluster.choices import EngineChoices
from headsearch.cluster.driver import Driver, DriverEvent, Job, JobStates, Note
from headsearch.cluster.ray_engine import RayEngine, connected
from headsearch.errors import UserError
from headsearch.runs.run import is_complete, read_run
from helpers.inline_engine import on_engine, same, searched, settings

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.usefixtures("fitted_probes"),  # as in the workers, which know nothing of tests
]
optuna.logging.set_verbosity(optuna.logging.WARNING)
MARK = "HEADSEARCH_TEST_MARK"
"""An environment variable that all processes of a run inherit."""
HEADSEARCH = [sys.executable, "-m", "headsearch"]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a cluster of two nodes with one core each, with token authentication."""
    os.environ["RAY_AUTH_MODE"] = "token"  # before Ray is imported
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(**node)
    yield cluster.address
    cluster.shutdown()
    del os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"]


@pytest.fixture(scope="module")
def engine(address: str) -> Iterator[RayEngine]:
    with connected(f"ray://{address}", cpus=1, gpu=False) as found:
        yield found


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The search in one process."""
    return searched(tmp_path_factory.mktemp("one"))


class Witness:
    """An observer that harms processes of jobs, each as soon as it has trained a step.

    Args:
        harms: the signals to send, each to another process.
    """

    def __init__(self, *harms: int) -> None:
        self.harms, self.lines = harms, [""]
        self.harmed: list[int] = []
        """Processes in the order of `harms`."""

    def __call__(self, event: DriverEvent) -> None:
        if isinstance(event, Note):
            self.lines.append(event.text)
        elif isinstance(event, JobStates) and len(self.harmed) < len(self.harms):
            trained = [job.attempt.pid for job in event.jobs if job.attempt and job.attempt.step]
            for pid in set(trained) - set(self.harmed):
                self.harmed.append(pid)
                os.kill(pid, self.harms[len(self.harmed) - 1])
                return


def test_a_frozen_and_a_killed_worker_on_two_nodes_change_nothing_in_the_tables_of_run(
    engine: RayEngine, one: Path, tmp_path: Path
) -> None:
    """The frozen one is given up after a while, and its result is not counted."""
    assert len(engine.machines()) == 2
    witness = Witness(signal.SIGSTOP, signal.SIGKILL)
    search = on_engine(tmp_path, "run", engine)
    search.grace = 15.0
    search.run(witness)
    assert any("no sign of life for 15 s" in line for line in witness.lines), witness.lines
    assert any("was lost: its process died" in line for line in witness.lines), witness.lines
    same(search.run_directory, one)
    assert is_complete(search.run_directory)
    with pytest.raises(ProcessLookupError):  # it can't wake up either
        os.kill(witness.harmed[0], signal.SIGCONT)


def test_a_job_that_raises_is_set_aside_with_its_reason(
    engine: RayEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "FAILURES", 1)  # three by default: test_driver's
    lines: list[str] = []

    def note(event: DriverEvent) -> None:
        if isinstance(event, Note):
            lines.append(event.text)

    job = Job("job", {"job": "nonsense"}, tmp_path / "job")
    Driver(engine, 60.0, lambda *_: None, note).run([job], threading.Event())
    assert (job.state, job.reason) == ("set aside", "failed: KeyError: 'nonsense'")
    assert lines[-1] == "job is set aside after 1 attempt"


def test_nobody_without_the_token_is_let_in(address: str) -> None:
    code = (
        "from headsearch.cluster.ray_engine import connected\n"
        "from headsearch.errors import UserError\n"
        "try:\n"
        f"    with connected('ray://{address}', cpus=1, gpu=False): print('let in')\n"
        "except UserError as error: print(error)"
    )
    others = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    for token in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "1" * 64}):
        done = subprocess.run(
            [sys.executable, "-c", code], env={**others, "HOME": "/nonexistent", **token},
            capture_output=True, text=True, timeout=200, check=True,
        )  # fmt: skip
        assert "refused, because this machine has no token of the cluster" in done.stdout
        assert done.stdout.count("\n") == 1


@pytest.fixture(scope="module")
def pairs(engine: RayEngine) -> RayEngine:
    """The same cluster, where two processes train each cohort."""
    return RayEngine(engine._ray, cpus=1, gpu=False, processes=2)


def test_two_processes_of_a_cohort_are_one_process_to_1e_6_in_float64(
    pairs: RayEngine, tmp_path: Path
) -> None:
    """Steps of two objectives, each process a task in a place of its own, over gloo."""
    import torch
    from safetensors.torch import load_file

    tests = str(Path(__file__).parents[1])

    def steps(order: str, machine: str = "machine") -> Iterator[str]:
        sys.path.insert(0, tests)
        from headsearch.cluster import jobs, task
        from helpers.jobs import steps_in_ranks

        def work(work: task.Work) -> dict[str, Any]:
            steps_in_ranks.main(work.order["out"], ("ibot", "simclr"))
            return {}

        jobs.JOBS = {"steps": work}
        yield from task.perform(order, machine)

    kind = {"num_cpus": 1, "max_retries": 0, "max_calls": 1, "num_returns": "streaming"}
    whole, found = pairs._perform, {}
    pairs._perform = pairs._ray.remote(**kind)(steps)
    try:
        for processes in (1, 2):
            out = tmp_path / f"{processes}.safetensors"
            order = {"job": "steps", "out": str(out), "processes": processes}
            job = Job(f"by {processes}", order, tmp_path / f"job-{processes}")
            Driver(pairs, 120.0, lambda *_: None).run([job], threading.Event())
            assert job.state == "done", job.reason
            found[processes] = load_file(out)
    finally:
        pairs._perform = whole
    assert found[1].keys() == found[2].keys()
    assert [int(found[number].pop("processes")) for number in (1, 2)] == [1, 2]
    for name, tensor in found[1].items():
        torch.testing.assert_close(found[2][name], tensor, rtol=1e-6, atol=1e-6, msg=name)


def test_a_search_by_pairs_of_processes_ranks_as_one_by_single_ones(
    pairs: RayEngine, one: Path, tmp_path: Path
) -> None:
    """A process of a pair is killed on the way."""
    witness = Witness(signal.SIGKILL)
    search = on_engine(tmp_path, "run", pairs, processes=2)
    assert any("each by 2 processes" in note for note in search.notes)
    search.run(witness)
    assert any("was lost" in line for line in witness.lines), witness.lines
    assert is_complete(search.run_directory)
    rankings = [read_run(run).ranking for run in (search.run_directory, one)]
    for column in ("candidate", "cohort", "state", "rungs"):
        assert list(rankings[0][column]) == list(rankings[1][column]), column


def test_more_processes_than_the_cluster_has_room_for_are_refused(engine: RayEngine) -> None:
    with pytest.raises(UserError, match="--processes 3: the engine has room for 2 at a time"):
        RayEngine(engine._ray, cpus=1, gpu=False, processes=3)


def test_a_task_that_needs_more_than_any_machine_has_is_refused(engine: RayEngine) -> None:
    with pytest.raises(UserError, match=r"takes 99 cores \(--threads\), and the largest"):
        RayEngine(engine._ray, cpus=99, gpu=False)
    with pytest.raises(UserError, match="no machine of it has a GPU"):
        RayEngine(engine._ray, cpus=1, gpu=True)


def test_sigterm_ends_a_local_engine_and_resume_goes_on(one: Path, tmp_path: Path) -> None:
    flags = [
        part
        for name, value in settings(tmp_path, out=tmp_path / "run").items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    others = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    environment: dict[str, Any] = {**others, "OMP_NUM_THREADS": "1", MARK: str(tmp_path)}
    process = subprocess.Popen(
        [*HEADSEARCH, "run", *flags, "--engine", "local"], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if " rung 0/2" in line:
            process.send_signal(signal.SIGTERM)
            break
    rest, _ = process.communicate(timeout=200)
    assert process.returncode == 128 + signal.SIGTERM, "".join(lines) + rest
    assert f"headsearch resume {tmp_path / 'run'} continues from here" in rest
    assert "Traceback" not in rest
    assert processes_with(str(tmp_path)) == []
    resumed = subprocess.run(
        [*HEADSEARCH, "resume", str(tmp_path / "run")], env=environment,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    same(tmp_path / "run", one)


def processes_with(text: str) -> list[str]:
    """The command lines of the processes that have this mark and do not end within a minute."""
    found = []
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                arguments = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                environment = (folder / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if f"{MARK}={text}" in environment:
                found.append(arguments)
        if not found:
            break
        time.sleep(0.5)
    return found


@pytest.mark.parametrize(
    ("engine", "words"),
    [("remote", "must be local"), ("ray://host", "HOST:PORT"), ("ray://:1", "HOST:PORT")],
)
def test_an_unknown_engine_is_refused_with_its_forms(engine: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        EngineChoices(engine)
