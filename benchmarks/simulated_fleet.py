"""A search over thousands of workers that die, freeze, are preempted and lose their database.

    python benchmarks/simulated_fleet.py

The queue is headsearch's own (`headsearch.cluster.engine.queue`, with
`headsearch.runs.storage.patiently`), on Optuna's storage in memory. Simulated are time, the
network, the training of a cohort (so many seconds), and the worker's loop and heartbeat, which
follow `headsearch.cluster.worker` line by line but wait in simulated time. A cohort that is begun
again begins from its first step. Asserts for every scenario that each cohort was committed exactly
once, none lost and none counted twice, but for those that failed as often as the rules allow
(`given_up`). Where many workers have nothing to do, some of their polls are only counted. Writes
results/scaling/fleet.csv and fleet_calls.csv. Takes some minutes of one core, most of them with
2,048 workers.
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
"""Of training a cohort, on average. Real ones take longer: faults count by this."""
LATENCY_S = 0.01
CARRIED_OUT = 32_768
"""Idle workers × cohorts whose polls are carried out, but of 8 workers at least: each reads all
cohorts. Of further idle workers polls are only counted; they wait for one of those to find work."""
READS_OF_A_POLL = 3
"""Of all trials: to look, to claim, and to know whether all is done."""


@dataclass(frozen=True)
class Faults:
    """What goes wrong; means of exponential times, in seconds of one machine.

    Attributes:
        dies: between deaths without a word.
        comes_back: from a death or a preemption until the machine works again.
        preempted: between SIGTERMs, at which the worker gives its task back.
        freezes: between stops of the whole process, as of a machine that is moved or swaps.
        frozen: how long it stands still then, at most (at random down to nothing).
        slow: the share of machines that are half as fast.
        away: when the database goes, and for how long.
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
"""Cohorts for so many workers."""
OF_THE_LARGEST = ("usual", "database away 5 min")
"""Scenarios of the largest fleet, which take minutes each, if none are asked for."""


class Fleet:
    """A study, its database, and the machines that work at it."""

    def __init__(
        self, workers: int, cohorts: int, faults: Faults, *, rules: Rules, seed: int
    ) -> None:
        self.dice, self.faults, self.rules = random.Random(seed), faults, rules
        self.world = World()
        self.database = Database(self.world, LATENCY_S)
        # no two alike: heads leave at rungs, and families differ
        self.seconds = {
            f"cohort {n}": TASK_S * self.dice.uniform(0.8, 1.2) for n in range(1, cohorts + 1)
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
        self.speeds = [0.5 if self.dice.random() < faults.slow else 1.0 for _ in range(workers)]
        self.slots = max(8, CARRIED_OUT // cohorts)
        self.pollers: set[SimulatedWorker] = set()
        for index, speed in enumerate(self.speeds):
            self.world.later(
                self.dice.uniform(0, 60), Machine(self, f"machine {index}", speed).boot
            )
        for at, seconds in faults.away:
            self.world.later(at, lambda seconds=seconds: self.database.leave(seconds))

    def over(self) -> bool:
        """Whether the last worker to commit has heard so, or another sees that nothing is left."""
        return self.nothing_left or len(self.committed) == len(self.seconds)

    def run(self) -> None:
        self.world.run(self.over)
        self.ended_at = self.world.now

    @property
    def ideal(self) -> float:
        """Seconds that the work would take if it could be shared out to the last second."""
        return sum(self.seconds.values()) / sum(self.speeds)

    def check(self) -> int:
        """Every cohort was committed exactly once, in its order, or failed as often as it may.

        Returns:
            How many were committed.
        """
        by_key: dict[str, Counter[TrialState]] = {key: Counter() for key in self.seconds}
        failures: Counter[str] = Counter()
        who: dict[str, str] = {}
        for trial in self.database.get_all_trials(self.queue._study, deepcopy=False):
            key = trial.user_attrs["key"]
            by_key[key][trial.state] += 1
            failures[key] += bool(trial.user_attrs.get("counts"))
            if trial.state == TrialState.COMPLETE:
                who[key] = trial.user_attrs["claim"]
        assert self.queue.unfinished() == 0
        results = self.queue.results("cohort")
        # a worker may die after its commit, before it hears of it
        assert set(self.committed) <= set(results)
        assert all(times == 1 for times in self.committed.values())
        assert list(results) == [key for key in self.seconds if key in results]
        for key, states in by_key.items():
            assert states[TrialState.COMPLETE] == (key in results)
            assert key in results or failures[key] >= self.rules.attempts
        assert all(result["claim"] == who[key] for key, result in results.items())
        return len(results)


class Machine:
    """A machine that starts a worker whenever it is up."""

    def __init__(self, fleet: Fleet, name: str, speed: float) -> None:
        self.fleet, self.name, self.speed = fleet, name, speed
        self.worker: SimulatedWorker | None = None

    def boot(self) -> None:
        faults, dice = self.fleet.faults, self.fleet.dice
        self.worker = worker = SimulatedWorker(self)
        worker.begin()
        for mean, happens in (
            (faults.dies, self._dies),
            (faults.preempted, self._is_preempted),
            (faults.freezes, self._freezes),
        ):
            if mean < inf:
                self._in(exponential(dice, mean), worker, happens)

    def _in(self, seconds: float, worker: SimulatedWorker, happens: Callable[[], None]) -> None:
        self.fleet.world.later(seconds, lambda: happens() if self.worker is worker else None)

    def _dies(self) -> None:
        assert self.worker is not None
        self.fleet.news["deaths"] += self.worker.busy
        self.worker.die()
        self.gone()

    def _is_preempted(self) -> None:
        assert self.worker is not None
        self.fleet.news["preemptions"] += self.worker.busy
        self.worker.told_to_stop()

    def _freezes(self) -> None:
        fleet, worker = self.fleet, self.worker
        assert worker is not None
        fleet.news["freezes"] += worker.busy
        worker.frozen_until = fleet.world.now + fleet.dice.uniform(0, fleet.faults.frozen)
        self._in(exponential(fleet.dice, fleet.faults.freezes), worker, self._freezes)

    def gone(self) -> None:
        """Its worker has ended, however; one comes back after a while."""
        self.worker = None
        back = exponential(self.fleet.dice, self.fleet.faults.comes_back)
        self.fleet.world.later(back, self.boot)


class SimulatedWorker(Process):
    """`headsearch.cluster.worker.Worker` and its `Pulse`, in simulated time."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.fleet.world)
        self._machine, self._fleet, self._name = machine, machine.fleet, machine.name
        self._rules, self._dice = self._fleet.rules, self._fleet.dice
        self._stop = False
        self._lost: str | None = None
        self.busy = False
        self._main: greenlet.greenlet | None = None

    def start(self, work: Callable[[], object]) -> greenlet.greenlet:
        thread = super().start(work)
        thread.process = self  # the database asks whose time passes
        return thread

    def begin(self) -> None:
        self._main = self.start(self._run)

    def told_to_stop(self) -> None:
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
        except (*STORAGE_ERRORS, OSError):  # UserError there: "the storage is out of reach"
            self._fleet.news["workers that gave up on the database"] += 1
        self.dead = True
        self._machine.gone()

    def _work(self) -> None:
        tasks = self._ask(
            lambda: Tasks(
                self._fleet.database, "study", clock=self.world, wall=self.world,
                seed=self._dice.getrandbits(32),
            )
        )  # fmt: skip
        pause = FIRST_PAUSE_S
        while not self._stop:
            self._ask(tasks.look)
            claim = self._ask(lambda: tasks.claim(self._name))
            if claim is not None:
                pause = FIRST_PAUSE_S
                self._work_at(claim)
                continue
            if self._ask(tasks.unfinished) == 0:
                self._fleet.nothing_left = True
                return
            pause = self._idle(pause)

    def _idle(self, pause: float) -> float:
        """Waits until the next poll that is carried out; how long to wait after it."""
        pollers = self._fleet.pollers
        while not self._stop:
            self._sleep(pause * self._dice.uniform(0.5, 1.5))
            pause = min(GROWTH * pause, LONGEST_PAUSE_S, self._rules.grace / 4)
            pollers -= {worker for worker in pollers if worker.dead or worker.busy}
            if self in pollers or len(pollers) < self._fleet.slots:
                pollers.add(self)
                break
            self._fleet.database.count(READ_ALL, READS_OF_A_POLL)
        return pause

    def _ask(self, call: Callable[[], T]) -> T:
        return patiently(call, self._rules.grace, clock=self.world, pause=self._sleep)

    def _work_at(self, claim: Claim) -> None:
        fleet, began = self._fleet, self.world.now
        self._lost, over = None, []
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
        heard = self.world.now
        while not over:
            try:
                claim.beat()
                heard = self.world.now
            except TakenOverError as error:
                self._lost = str(error)
            except (*STORAGE_ERRORS, OSError) as error:
                if self.world.now - heard > self._rules.grace:
                    self._lost = f"the storage was out of reach: {reason_of(error)}"
            if self._lost is not None and not over:
                self._interrupt()
                return
            self._sleep(self._rules.heartbeat)


def simulate(
    name: str, workers: int, cohorts: int, *, rules: Rules, seed: int = 0
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A scenario's row of fleet.csv, and its rows of fleet_calls.csv."""
    began = time.perf_counter()
    fleet = Fleet(workers, cohorts, SCENARIOS[name], rules=rules, seed=seed)
    fleet.run()
    committed = fleet.check()
    calls, seconds = fleet.database.calls, fleet.ended_at
    about = {"faults": name, "workers": workers, "cohorts": cohorts}
    row = about | {
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
        about | {"call": kind, "count": number, "per_s": number / seconds}
        for kind, number in sorted(calls.items())
    ]
    return row, kinds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--faults", nargs="+", choices=SCENARIOS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    gc.disable()  # what thousands of observers have seen is no garbage, and is much to go through
    asked.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for workers in asked.workers:
        usual = OF_THE_LARGEST if workers == max(SIZES) else tuple(SCENARIOS)
        for name in asked.faults or usual:
            row, kinds = simulate(name, workers, SIZES[workers], rules=Rules(), seed=asked.seed)
            rows.append(row)
            calls += kinds
            print(pd.Series(row).to_string(), "\n", flush=True)
            pd.DataFrame(rows).to_csv(asked.out / "fleet.csv", index=False, float_format="%.4g")
            table = pd.DataFrame(calls)
            table.to_csv(asked.out / "fleet_calls.csv", index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
