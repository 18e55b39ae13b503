"""All processes of a distributed job but the first: they carry out the first one's commands."""

from __future__ import annotations

from pathlib import Path

from optuna.trial import FixedTrial

from headsearch.device import release_memory
from headsearch.study.cohort import Cohort
from headsearch.study.job_commands import Absorb, Attach, End, Leave, Load, Score, SetUp, Steps
from headsearch.study.leaderboard import Entry
from headsearch.study.setup import SearchSetup
from headsearch.training import distributed
from headsearch.training.absorption import absorption
from headsearch.training.loop import train_window


def follow(prepared: SearchSetup) -> Path:
    """Carries out the commands of the first process until the search ends.

    Returns:
        The run directory that the first process wrote.

    Raises:
        UserError: another process of the job has ended early.
    """
    cohort = Cohort(0, 0, {})
    while True:
        match distributed.receive_object():
            case SetUp(seeds, lr):
                cohort.replicas.clear()  # free the old networks before the new ones are built
                release_memory(prepared.training.device)
                cohort = Cohort(0, 0, dict.fromkeys(seeds, 0))
                cohort.set_up(prepared.training, [], lr)
            case Attach(parameters):
                candidate = prepared.space.suggest(FixedTrial(dict(parameters)))
                # Only the first process keeps the leaderboard, so trial and cohort don't matter.
                cohort.attach(Entry(candidate, trial=0, cohort=0))
            case Leave(name):
                cohort.leave(name, "", "")
            case Load():
                cohort.load_state({})  # the tensors come from the first process
            case Steps(seed, window):
                replica = cohort.under(seed)
                train_window(replica.trainer, replica.loader, window)
            case Score(seed):
                # Each process scores some of the heads; the first process uses the result.
                prepared.training.scores(cohort.under(seed).trainer.teacher.network)
            case Absorb(seed, step, batches):
                replica = cohort.under(seed)
                absorption(replica.trainer, replica.setup, step, batches)
            case End(run_directory):
                return run_directory
            case other:
                raise AssertionError(f"not a command of a search: {other}")
