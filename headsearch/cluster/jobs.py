"""The two kinds of work, one cohort or one solo run: how it is trained, and its result.

A cohort is trained by an ordinary `Search` over its candidates alone, in its own directory, so that
a diverging base, a cohort that does not fit into memory and a collapsing head are treated as in any
search. Results are JSON data.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.trial import FixedTrial

from headsearch import torchrun
from headsearch.cluster.attempts import begin
from headsearch.cluster.plan import (
    check_images,
    check_versions,
    checked_first_weights,
    prepare_as_planned,
)
from headsearch.cluster.task import LostError, RefusedError, Work
from headsearch.data.fingerprint import read_back
from headsearch.errors import UserError
from headsearch.models.space import Candidate, Listing, ResolvedSpace
from headsearch.pretraining.run import Pretraining
from headsearch.pretraining.setup import PretrainingSetup, prepare_pretraining
from headsearch.pretraining.solo import SoloDivergedError, SoloEvent, SoloScored
from headsearch.report.session import quiet_optuna
from headsearch.runs.run import read_run
from headsearch.study.display import score_words
from headsearch.study.events import Advanced, Event, Noted, Scored
from headsearch.study.followers import follow
from headsearch.study.rung_decisions import Decided
from headsearch.study.search import Search
from headsearch.study.setup import SearchSetup
from headsearch.text import counted
from headsearch.training.distributed import RankLostError, leave_processes


def train_cohort(work: Work) -> Mapping[str, Any] | None:
    """Trains one cohort; see `_train_cohort`.

    Raises:
        LostError: another process that trains the same cohort has ended.
    """
    try:
        result = _train_cohort(work)
        leave_processes()
    except RankLostError:
        raise LostError("another of its processes has ended") from None
    return result


def _train_cohort(work: Work) -> Mapping[str, Any] | None:
    """Trains one cohort; its result, or None if it was stopped.

    Where the driver decides rungs, the result of a cohort that has come to the next one to decide
    names it as `waits_at`; the cohort goes on as another task, from the snapshot of this one.

    That its base diverges for good counts as a result too: it would on any machine.

    Raises:
        RefusedError: this machine cannot train it.
    """
    order, run = work.order, Path(work.order["run"])
    with quiet_optuna():
        prepared = prepare_as_planned(run, order["device"])
        if not torchrun.first():
            follow(prepared)
            return {}
        candidates = [candidate_of(prepared.space, head) for head in order["candidates"]]
        directory, begun = begin(Path(order["folder"]))
        search = cohort_search(
            prepared, candidates, directory, begun=begun, decided=decided_of(order)
        )
        work.stops_by(search.stop.set)
        if search.state.left is not None:
            taken = sum(search.state.left.record["steps"].values())
            work.say("note", text=f"goes on at step {taken}, from an earlier attempt's snapshot")
        steps = prepared.training.steps * search.config.seeds

        def observe(event: Event) -> None:
            if isinstance(event, Noted):
                work.say("note", text=event.text)
            elif isinstance(event, Scored):
                line = rung_line(event, search.config.rungs)
                work.say("rung", rung=event.rung, text=line)
            elif isinstance(event, Advanced):
                work.training = True
                work.say("step", step=event.step, steps=steps)

        search.on_scoring = lambda _: work.say("alive")
        try:
            search.run(observe)
        except UserError:
            if not search.state.facts.get("diverged"):
                raise
        else:
            if not search.complete and search.waits_at is None:
                return None
        reached = {"host": socket.gethostname(), "waits_at": search.waits_at}
        return {**cohort_result(search), **reached}


def train_solo(work: Work) -> Mapping[str, Any] | None:
    """Trains one solo run; what `verify` has to know of it, or None if it was stopped.

    Raises:
        RefusedError: this machine cannot train it.
    """
    order, run = work.order, Path(work.order["run"])
    directory, begun = begin(Path(order["folder"]))
    planned = _solo_setup(order, run, directory, begun=begun)
    pretraining = Pretraining(planned, directory if begun else None)
    work.stops_by(pretraining.stop.set)
    if begun:
        work.say("note", text=pretraining.notes[-1])
    steps = planned.setup.steps

    def observe(event: SoloEvent) -> None:
        if isinstance(event, SoloScored):
            work.say("rung", rung=event.rung, text=f"rung {event.rung}/1 | step {event.step}")
        else:
            work.training = True
            work.say("step", step=event.step, steps=steps)

    pretraining.show_scoring(lambda _: work.say("alive"))
    try:
        pretraining.run(observe)
    except SoloDivergedError as error:  # it would on any machine: that is the result
        return {"failure": str(error)}
    return {"failure": None} if pretraining.complete else None


JOBS: Mapping[str, Callable[[Work], Mapping[str, Any] | None]] = {
    "cohort": train_cohort,
    "solo": train_solo,
}
"""The kinds of work by the name in the driver's order."""


def _solo_setup(
    order: Mapping[str, Any], run: Path, directory: Path, *, begun: bool
) -> PretrainingSetup:
    """A solo run, as `headsearch pretrain` would train it, from the first weights of its order."""
    flags = {**order["flags"], "out": None if begun else directory}
    try:
        search = read_run(run)
        check_versions(search.config.get("versions", {}))
        planned = prepare_pretraining(flags, run=search, head=order["head"])
        images = read_back(search.config.get("data_fingerprint", {}))
        if images is not None:
            check_images(planned.setup, images)
        weights = {int(seed): sha for seed, sha in order["first_weights"].items()}
        files = checked_first_weights(run, weights)
    except RefusedError:
        raise
    except UserError as error:
        raise RefusedError(str(error)) from None
    return replace(planned, setup=planned.setup.starting_from(files))


def candidate_of(space: ResolvedSpace, head: Mapping[str, Any]) -> Candidate:
    """A candidate from the plan's record of it.

    Raises:
        RefusedError: these parameters are another candidate here.
    """
    candidate = space.suggest(FixedTrial(dict(head["params"])))
    if candidate.name != head["name"]:
        raise RefusedError(
            f"{head['name']} is {candidate.name} here: use the same version of headsearch"
        )
    return candidate


def decided_of(order: Mapping[str, Any]) -> Decided | None:
    """The rungs that the driver has decided, if it decides them; None otherwise."""
    decided = order.get("decided")
    return None if decided is None else {int(rung): heads for rung, heads in decided.items()}


def cohort_search(
    prepared: SearchSetup,
    candidates: list[Candidate],
    directory: Path,
    *,
    begun: bool,
    decided: Decided | None = None,
) -> Search:
    """The search of one cohort, ready to run.

    Args:
        prepared: the set-up of the whole search.
        candidates: the candidates of the cohort.
        directory: its run directory.
        begun: whether the directory exists, with a snapshot to go on from.
        decided: as that of `Search`.
    """
    listed = replace(
        prepared.with_settings(out=None if begun else directory),
        listing=Listing(tuple(candidates), (), ()),
    )
    return Search(listed, directory if begun else None, decided=decided)


def cohort_result(search: Search) -> dict[str, Any]:
    """The result of the search of one cohort: tables, facts and trials, as JSON data."""
    state = search.state
    return {
        "rows": [entry.row() for entry in state.leaderboard.entries.values()],
        "rung_rows": state.leaderboard.rung_rows,
        "score_rows": state.leaderboard.score_rows,
        "dense_rows": state.leaderboard.other_data_rows,
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


def rung_line(event: Scored, rungs: int) -> str:
    """A rung of a cohort in one line: the best head, and how many are live.

    Args:
        event: the rung's event.
        rungs: the number of rungs.
    """
    entries = list(event.leaderboard.entries.values())
    live = sum(entry.state == "running" for entry in entries)
    best = max(
        (e for e in entries if not e.candidate.control and e.scores and e.score == e.score
         and e.rungs == event.rung and e.state != "collapsed"),
        key=lambda e: e.score,
        default=None,
    )  # fmt: skip
    parts = [f"rung {event.rung}/{rungs}", f"step {event.step}"]
    if best is not None:
        parts.append(f"best {best.candidate.name} ({score_words(best)})")
    parts.append(f"{counted(live, 'head')} live" if live else "complete")
    return " | ".join(parts)
