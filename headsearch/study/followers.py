"""The other processes of a job: each does to its cohort what the first process commands."""

from __future__ import annotations

from pathlib import Path

from optuna.trial import FixedTrial

from headsearch.device import release_memory
from headsearch.study.cohort import Cohort
from headsearch.study.commands import Attach, End, Leave, Load, Score, SetUp, Steps
from headsearch.study.leaderboard import Entry
from headsearch.study.setup import SearchSetup
from headsearch.training import distributed
from headsearch.training.loop import train_window


def follow(prepared: SearchSetup) -> Path:
    """Takes part in a search of the first process, until that ends it.

    Returns:
        The run directory, which the first process has written.

    Raises:
        UserError: another process has gone.
    """
    cohort = Cohort(0, 0, {})
    while True:
        match distributed.receive_object():
            case SetUp(seeds, lr):
                cohort.replicas.clear()
                release_memory(prepared.training.device)
                cohort = Cohort(0, 0, dict.fromkeys(seeds, 0))
                cohort.set_up(prepared.training, [], lr)
            case Attach(parameters):
                candidate = prepared.space.suggest(FixedTrial(dict(parameters)))
                cohort.attach(Entry(candidate, trial=0, cohort=0))
            case Leave(name):
                cohort.leave(name, "", "")
            case Load():
                cohort.load_state({})
            case Steps(seed, window):
                replica = cohort.under(seed)
                train_window(replica.trainer, replica.loader, window)
            case Score(seed):
                prepared.training.scores(cohort.under(seed).trainer.teacher.network)
            case End(run_directory):
                return run_directory
            case word:
                raise AssertionError(f"no command of a search: {word}")
