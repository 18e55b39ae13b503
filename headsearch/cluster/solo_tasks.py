"""Solo runs of a collected search, queued for the workers of its study."""

from __future__ import annotations

from headsearch.cluster.engine.queue import Task
from headsearch.cluster.shared_study import SOLO, SharedStudy, share_first_weights
from headsearch.config.recipes import find_recipe
from headsearch.config.settings import resolve
from headsearch.pretraining.verification import Verification
from headsearch.training.base_plan import plan_of_run
from headsearch.training.objectives import make_objective


def queue_solos(study: SharedStudy, verification: Verification) -> int:
    """Queues the solo runs that have not ended and are not queued; how many were queued.

    Raises:
        UserError: the first weights cannot be shared.
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
            # what a search has lowered since sets its solo runs apart from those before
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
