"""Queues the solo runs of a collected search as tasks for the workers of its study.

A solo run trains the base with a single head and verifies the ranking of the search.
"""

from __future__ import annotations

from headsearch.cluster.engine.claims import Task
from headsearch.cluster.shared_study import SOLO, SharedStudy, share_first_weights
from headsearch.config.recipes import find_recipe
from headsearch.config.settings import resolve
from headsearch.pretraining.verification import Verification
from headsearch.training.base_plan import plan_of_run
from headsearch.training.objectives import make_objective


def queue_solos(study: SharedStudy, verification: Verification) -> int:
    """Queues the solo runs that are neither done nor queued; returns how many were queued.

    Raises:
        UserError: the initial weights cannot be written to the shared folder.
    """
    run, waiting = verification.search, [s for s in verification.solos if s.scores() is None]
    known = {(row["candidate"], row["seed"]) for row in run.solo.to_dict("records")}
    waiting = [solo for solo in waiting if (solo.candidate, solo.seed) not in known]
    hashes = dict(study.first_weights)
    missing = sorted({solo.seed for solo in waiting} - hashes.keys())
    if missing:
        config = resolve({}, run.path / "config.yaml")
        sizes = find_recipe(config.recipe).sizes_for(config.objective)
        objective = make_objective(config.objective, **sizes)
        hashes |= share_first_weights(config, plan_of_run(run), objective, missing, study.shared)
    return study.tasks().add(
        Task(
            # The learning rate is part of the key: if the search has lowered it since, solo runs at
            # the new rate are tasks of their own.
            f"solo {solo} lr {solo.lr:g}",
            SOLO,
            {
                "candidate": solo.candidate,
                "family": solo.family,
                "seed": solo.seed,
                "lr": solo.lr,
                "first_weights": hashes[solo.seed],
            },
        )
        for solo in waiting
    )
