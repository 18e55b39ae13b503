"""The two kinds of work in a distributed search, one cohort or one solo run: set-up and result.

A cohort is trained by an ordinary `Search` over its candidates alone, in its own directory. Results
are dictionaries that can be stored as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.distributions import distribution_to_json

from headsearch.models.space import Candidate, Listing
from headsearch.pretraining.head_selection import Head
from headsearch.pretraining.run import Pretraining
from headsearch.pretraining.setup import ALWAYS, PretrainingSetup
from headsearch.pretraining.solo import SoloEvent
from headsearch.study.events import Scored
from headsearch.study.search import Search
from headsearch.study.setup import SearchSetup
from headsearch.text import counted
from headsearch.training.setup import TrainingSetup


def cohort_search(
    prepared: SearchSetup, candidates: Sequence[Candidate], directory: Path
) -> Search:
    """The search of one cohort, ready to run.

    Args:
        prepared: the set-up of the whole search.
        candidates: the candidates of the cohort.
        directory: the run directory to create.
    """
    return Search(
        replace(prepared.with_settings(out=directory), listing=Listing(tuple(candidates), (), ()))
    )


def cohort_result(search: Search) -> dict[str, Any]:
    """The result of the search of one cohort: tables, facts and trials, as JSON data."""
    state = search.state
    return {
        "rows": [entry.row() for entry in state.leaderboard.entries.values()],
        "rung_rows": state.leaderboard.rung_rows,
        "score_rows": state.leaderboard.score_rows,
        "sizes": state.sizes,
        "facts": state.facts,
        "pace": state.throughput.record_of(),
        "trials": [
            {
                "state": trial.state.name,
                "value": trial.value,
                "params": trial.params,
                "distributions": {
                    name: distribution_to_json(distribution)
                    for name, distribution in trial.distributions.items()
                },
                "intermediate": {str(at): v for at, v in trial.intermediate_values.items()},
                "attrs": trial.user_attrs,
            }
            for trial in state.trials.study.get_trials(deepcopy=False)
            if "cohort" in trial.user_attrs
        ],
    }


def solo_setup(
    setup: TrainingSetup, head: Head | None, lr: float, directory: Path | None = None
) -> PretrainingSetup:
    """One solo run, ready to train.

    Args:
        setup: the set-up of the search with the seed of the solo run.
        head: the head; None for the base alone.
        lr: the peak learning rate.
        directory: the run directory to create; None if nothing is written.
    """
    changes = {"rungs": 1, "lr": lr, "out": directory, **ALWAYS}
    setup = replace(setup, config=setup.config.model_copy(update=changes))
    return PretrainingSetup(setup, head, ())


def solo_result(
    planned: PretrainingSetup, observe: Callable[[SoloEvent], None]
) -> Mapping[str, Any] | None:
    """Trains one solo run.

    Args:
        planned: the solo run.
        observe: called with every event; it may raise an error to stop the run.

    Returns:
        The last row of pretrain.csv; None if the run was stopped before its end.

    Raises:
        SoloDivergedError: base or head diverged.
    """
    pretraining = Pretraining(planned)
    pretraining.run(observe)
    return pretraining.rows[-1] if pretraining.complete else None


def rung_line(event: Scored, rungs: int) -> str:
    """A rung of a cohort in one line: the best head, and how many are live.

    Args:
        event: the rung's event.
        rungs: the number of rungs.
    """
    entries = list(event.leaderboard.entries.values())
    live = sum(entry.state == "running" for entry in entries)
    best = max(
        (e for e in entries if not e.candidate.control and e.score == e.score
         and e.rungs == event.rung and e.state != "collapsed"),
        key=lambda e: e.score,
        default=None,
    )  # fmt: skip
    parts = [f"rung {event.rung}/{rungs}", f"step {event.step}"]
    if best is not None:
        parts.append(f"best {best.candidate.name} ({best.score:.3f})")
    parts.append(f"{counted(live, 'head')} live" if live else "complete")
    return " | ".join(parts)
