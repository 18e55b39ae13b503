"""Simulates a search over thousands of workers that die, freeze, are preempted, lose the database.

    python benchmarks/simulated_fleet.py

Real are the queue, headsearch's own (`headsearch.cluster.engine.queue`, with
`headsearch.runs.storage.patiently`), and Optuna's storage in memory. Simulated are time, the
network, the training of a cohort (which only takes time), and the worker's loop and heartbeat,
which follow `headsearch.cluster.worker` line by line but wait in simulated time. A cohort that is
started again starts from its first step.

Asserts for every scenario that each cohort was committed exactly once, and none was lost or counted
twice, except those that failed as often as the rules allow (`given_up`). Where many workers are
idle, some of their polls are only counted. Writes results/scaling/fleet.csv and fleet_calls.csv.
Takes some minutes of one core, most of them for 2,048 workers.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import greenlet
import optuna
import pandas as pd
from optuna.trial import TrialState
from simulated_world import READ_ALL, Database, Process, World, exponential

from headsearch.cluster.engine.claims import Claim, Rules, TakenOverError, Task
from headsearch.cluster.engine.queue import Tasks
from headsearch.cluster.worker import FIRST_PAUSE_S, GROWTH, LONGEST_PAUSE_S
from headsearch.runs.storage import STORAGE_ERRORS, patiently, reason_of

T = TypeVar("T")
OUT = Path(__file__).parents[1] / "results" / "scaling"
TASK_S = 1800.0
"""Mean seconds of training a cohort. Real cohorts take longer, so faults are given in this unit."""
LATENCY_S = 0.01
"""Seconds of a call to the database."""
CARRIED_OUT = 32_768
"""The largest product of idle workers and cohorts whose polls are carried out, for 8 workers at
least: each poll reads all cohorts. Polls of further idle workers are only counted; these workers
wait until one of the others finds work."""
READS_OF_A_POLL = 3
"""Reads of all trials in a poll: to look, to claim, and to know whether all tasks are done."""


@dataclass(frozen=True)
class Faults:
    """What goes wrong. Times are means of exponential distributions, in seconds of one machine.

    Attributes:
        dies: between deaths of the worker without any message.
        comes_back: from the end of a worker until its machine starts another.
        preempted: between SIGTERMs, at which the worker gives its task back.
        freezes: between stops of the whole process, as when a machine is migrated or swaps.
        frozen: the longest stop; its length is uniform from 0.
        slow: the share of machines that are half as fast.
        away: outages of the database, each as its start and its length.
    """

    dies: float = inf
    comes_back: float = 600.0
    preempted: float = inf
    freezes: float = inf
    frozen: float = 900.0
    slow: float = 0.0
    away: tuple[tuple[float, float], ...] = ()


SCENARIOS = {
    "nothing": Faults(),
    "usual": Faults(dies=48 * TASK_S, preempted=48 * TASK_S, freezes=24 * TASK_S, slow=0.05),
    "spot": Faults(dies=12 * TASK_S, preempted=4 * TASK_S, freezes=12 * TASK_S, slow=0.05),
    "database away 90 s": Faults(away=((0.6 * TASK_S, 90.0), (1.2 * TASK_S, 90.0))),
    "database away 5 min": Faults(away=((0.6 * TASK_S, 300.0),)),
}
SIZES = {8: 256, 64: 512, 512: 1024, 2048: 3072}
"""By number of workers: the number of cohorts."""
OF_THE_LARGEST = ("usual", "database away 5 min")
"""The scenarios of the largest fleet where --faults names none; each takes minutes."""


class Fleet:
    """A study, its database, and the machines that work on it.

    Args:
        workers: the number of machines, with one worker each.
        cohorts: the number of tasks in the queue.
        faults: what goes wrong.
        rules: of the queue.
        seed: of everything that is random.

    Attributes:
        news: counts of events, by name.
        committed: counts of commits that a worker knows of, by cohort.
        worked: seconds of work, also of work that was lost, at full speed.
        ended_at: simulated time of the end.
    """

    def __init__(
        self, workers: int, cohorts: int, faults: Faults, *, rules: Rules, seed: int
    ) -> None:
        self.rng, self.faults, self.rules = random.Random(seed), faults, rules
        self.world = World()
        self.database = Database(self.world, LATENCY_S)
        # Different times for each: heads are pruned at rungs, and families differ in cost.
        self.seconds = {
            f"cohort {n}": TASK_S * self.rng.uniform(0.8, 1.2) for n in range(1, cohorts + 1)
        }
        tasks = [Task(key, "cohort", {}) for key in self.seconds]
        self.queue = Tasks.create(
            self.database, "study", tasks, rules, clock=self.world, wall=self.world
        )
        self.news: Counter[str] = Counter()
        self.committed: Counter[str] = Counter()
        self.worked = 0.0
        self.ended_at = 0.0
        self.nothing_left = False
        self.speeds = [0.5 if self.rng.random() < faults.slow else 1.0 for _ in range(workers)]
        self.slots = max(8, CARRIED_OUT // cohorts)
        self.pollers: set[SimulatedWorker] = set()
        for index, speed in enumerate(self.speeds):
            self.world.later(self.rng.uniform(0, 60), Machine(self, f"machine {index}", speed).boot)
        for at, seconds in faults.away:
            self.world.later(at, lambda seconds=seconds: self.database.leave(seconds))

    def over(self) -> bool:
        """Whether all commits are known to their workers, or a worker saw that no task is left."""
        return self.nothing_left or len(self.committed) == len(self.seconds)

    def run(self) -> None:
        """Simulates until all is done."""
        self.world.run(self.over)
        self.ended_at = self.world.now

    @property
    def ideal(self) -> float:
        """Seconds that the work would take if it could be divided evenly among all machines."""
        return sum(self.seconds.values()) / sum(self.speeds)

    def check(self) -> int:
        """Asserts that every cohort was committed exactly once, or failed as often as it may.

        Results must come in the order of the cohorts, whoever committed them.

        Returns:
            How many were committed.
        """
        by_key: dict[str, Counter[TrialState]] = {key: Counter() for key in self.seconds}
        failures: Counter[str] = Counter()
        committers: dict[str, str] = {}
        for trial in self.database.get_all_trials(self.queue._study, deepcopy=False):
            key = trial.user_attrs["key"]
            by_key[key][trial.state] += 1
            failures[key] += bool(trial.user_attrs.get("counts"))
            if trial.state == TrialState.COMPLETE:
                committers[key] = trial.user_attrs["claim"]
        assert self.queue.unfinished() == 0
        results = self.queue.results("cohort")
        # Not equal: a worker may die after its commit, before the answer reaches it.
        assert set(self.committed) <= set(results)
        assert all(times == 1 for times in self.committed.values())
        assert list(results) == [key for key in self.seconds if key in results]
        for key, states in by_key.items():
            assert states[TrialState.COMPLETE] == (key in results)
            assert key in results or failures[key] >= self.rules.attempts
        assert all(result["claim"] == committers[key] for key, result in results.items())
        return len(results)


class Machine:
    """A machine that starts a worker whenever it is up."""

    def __init__(self, fleet: Fleet, name: str, speed: float) -> None:
        self.fleet, self.name, self.speed = fleet, name, speed
        self.worker: SimulatedWorker | None = None

    def boot(self) -> None:
        """Starts a worker, and draws when the first fault of each kind happens to it."""
        faults, rng = self.fleet.faults, self.fleet.rng
        self.worker = worker = SimulatedWorker(self)
        worker.begin()
        for mean, happens in (
            (faults.dies, self._dies),
            (faults.preempted, self._is_preempted),
            (faults.freezes, self._freezes),
        ):
            if mean < inf:
                self._after(exponential(rng, mean), worker, happens)

    def _after(self, seconds: float, worker: SimulatedWorker, happens: Callable[[], None]) -> None:
        """Lets a fault happen after some seconds, if the worker has not ended by then."""
        self.fleet.world.later(seconds, lambda: happens() if self.worker is worker else None)

    def _dies(self) -> None:
        assert self.worker is not None
        self.fleet.news["deaths"] += self.worker.busy
        self.worker.die()
        self.gone()

    def _is_preempted(self) -> None:
        assert self.worker is not None
        self.fleet.news["preemptions"] += self.worker.busy
        self.worker.request_stop()

    def _freezes(self) -> None:
        fleet, worker = self.fleet, self.worker
        assert worker is not None
        fleet.news["freezes"] += worker.busy
        worker.frozen_until = fleet.world.now + fleet.rng.uniform(0, fleet.faults.frozen)
        self._after(exponential(fleet.rng, fleet.faults.freezes), worker, self._freezes)

    def gone(self) -> None:
        """Called when the worker has ended for any reason; another one starts after a while."""
        self.worker = None
        pause = exponential(self.fleet.rng, self.fleet.faults.comes_back)
        self.fleet.world.later(pause, self.boot)


class SimulatedWorker(Process):
    """`headsearch.cluster.worker.Worker` and its `Pulse`, in simulated time."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.fleet.world)
        self._machine, self._fleet, self._name = machine, machine.fleet, machine.name
        self._rules, self._rng = self._fleet.rules, self._fleet.rng
        self._stop = False
        self._lost: str | None = None
        self.busy = False
        self._main: greenlet.greenlet | None = None

    def start(self, work: Callable[[], object]) -> greenlet.greenlet:
        thread = super().start(work)
        thread.process = self  # whose time a call to the database takes
        return thread

    def begin(self) -> None:
        self._main = self.start(self._run)

    def request_stop(self) -> None:
        """What SIGTERM does to the worker."""
        self._stop = True
        self._interrupt()

    def _interrupt(self) -> None:
        if self.busy and self._main:
            self.world.wake(self, self._main, 0.0)

    def _sleep(self, seconds: float) -> None:
        self.world.sleep(self, seconds)

    def _run(self) -> None:
        try:
            self._work()
        except (*STORAGE_ERRORS, OSError):  # the real worker ends with a UserError
            self._fleet.news["workers that gave up on the database"] += 1
        self.dead = True
        self._machine.gone()

    def _work(self) -> None:
        tasks = self._ask(
            lambda: Tasks(
                self._fleet.database, "study", clock=self.world, wall=self.world,
                seed=self._rng.getrandbits(32),
            )
        )  # fmt: skip
        pause = FIRST_PAUSE_S
        while not self._stop:
            self._ask(tasks.look)
            claim = self._ask(lambda: tasks.claim(self._name))
            if claim is not None:
                pause = FIRST_PAUSE_S
                self._train(claim)
                continue
            if self._ask(tasks.unfinished) == 0:
                self._fleet.nothing_left = True
                return
            pause = self._idle(pause)

    def _idle(self, pause: float) -> float:
        """Waits until the next poll that is carried out; returns the pause to make after it."""
        pollers = self._fleet.pollers
        while not self._stop:
            self._sleep(pause * self._rng.uniform(0.5, 1.5))
            pause = min(GROWTH * pause, LONGEST_PAUSE_S, self._rules.grace / 4)
            pollers -= {worker for worker in pollers if worker.dead or worker.busy}
            if self in pollers or len(pollers) < self._fleet.slots:
                pollers.add(self)
                break
            self._fleet.database.count(READ_ALL, READS_OF_A_POLL)
        return pause

    def _ask(self, call: Callable[[], T]) -> T:
        """The answer of the database, asked again while it is out of reach, up to the grace."""
        return patiently(call, self._rules.grace, clock=self.world, pause=self._sleep)

    def _train(self, claim: Claim) -> None:
        """Works on a claimed task until it is committed, given back or taken over."""
        fleet, began = self._fleet, self.world.now
        self._lost = None
        over: list[bool] = []  # not empty once the heartbeat of this claim must end
        self.busy = True
        self.start(lambda: self._beat(claim, over))
        try:
            self._sleep(fleet.seconds[claim.task.key] / self._machine.speed)
            if self._lost is not None:
                raise TakenOverError(self._lost)
            if self._stop:
                self._give_back(claim)
                return
            result = {"claim": claim.token, "worker": self._name}
            self._ask(lambda: claim.commit(result))
            fleet.committed[claim.task.key] += 1
        except TakenOverError:
            fleet.news["results thrown away"] += 1
        finally:
            self.busy = False
            over.append(True)
            fleet.worked += (self.world.now - began) * self._machine.speed

    def _give_back(self, claim: Claim) -> None:
        try:
            claim.release("its worker was told to stop")
        except (TakenOverError, *STORAGE_ERRORS, OSError):
            pass

    def _beat(self, claim: Claim, over: list[bool]) -> None:
        """Sends heartbeats of a claim until it is over, and interrupts the work if it is lost."""
        last_answer = self.world.now
        while not over:
            try:
                claim.beat()
                last_answer = self.world.now
            except TakenOverError as error:
                self._lost = str(error)
            except (*STORAGE_ERRORS, OSError) as error:
                if self.world.now - last_answer > self._rules.grace:
                    self._lost = f"the storage was out of reach: {reason_of(error)}"
            if self._lost is not None and not over:
                self._interrupt()
                return
            self._sleep(self._rules.heartbeat)


def simulate(
    name: str, workers: int, cohorts: int, *, rules: Rules, seed: int = 0
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Simulates a scenario; returns its row of fleet.csv and its rows of fleet_calls.csv."""
    began = time.perf_counter()
    fleet = Fleet(workers, cohorts, SCENARIOS[name], rules=rules, seed=seed)
    fleet.run()
    committed = fleet.check()
    calls, seconds = fleet.database.calls, fleet.ended_at
    key = {"faults": name, "workers": workers, "cohorts": cohorts}
    row = key | {
        "grace_s": rules.grace,
        "hours": seconds / 3600,
        "makespan_over_ideal": seconds / fleet.ideal,
        "rerun_share": fleet.worked / sum(fleet.seconds.values()) - 1,
        "deaths": fleet.news["deaths"],
        "preemptions": fleet.news["preemptions"],
        "freezes": fleet.news["freezes"],
        "results_thrown_away": fleet.news["results thrown away"],
        "gave_up_on_database": fleet.news["workers that gave up on the database"],
        "calls_per_s": sum(calls.values()) / seconds,
        "calls_per_s_busiest_minute": max(fleet.database.by_minute.values()) / 60,
        "trials_read_per_s": fleet.database.rows / seconds,
        "trials_read_per_s_busiest_minute": max(fleet.database.rows_by_minute.values()) / 60,
        "committed": committed,
        "given_up": cohorts - committed,
        "simulated_in_s": time.perf_counter() - began,
    }
    kinds = [
        key | {"call": kind, "count": number, "per_s": number / seconds}
        for kind, number in sorted(calls.items())
    ]
    return row, kinds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--faults", nargs="+", choices=SCENARIOS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Thousands of workers hold what they have read: searching it for garbage takes long, and none
    # of it is.
    gc.disable()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for workers in arguments.workers:
        usual = OF_THE_LARGEST if workers == max(SIZES) else tuple(SCENARIOS)
        for name in arguments.faults or usual:
            row, kinds = simulate(name, workers, SIZES[workers], rules=Rules(), seed=arguments.seed)
            rows.append(row)
            calls += kinds
            print(pd.Series(row).to_string(), "\n", flush=True)
            pd.DataFrame(rows).to_csv(arguments.out / "fleet.csv", index=False, float_format="%.4g")
            table = pd.DataFrame(calls)
            table.to_csv(arguments.out / "fleet_calls.csv", index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
