"""Scores heads by solo forks: joint training first, then each head alone to the end.

    python benchmarks/forks.py --data train.tar --eval-data val.tar --out results/cifar10

All heads train on one base for a share of the steps (`--from`). From that state the base continues
to the end with each head alone, and its accuracy there is the head's score. Writes
`searches/fork-COUPLING-SHARE.csv`, a row for each head and seed as it is done; started again, the
benchmark continues with the heads that are missing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ground_truth
import pandas as pd

from headsearch.config.settings import resolve
from headsearch.models.space import Candidate
from headsearch.pretraining.solo import check_stats
from headsearch.runs.tables import write_table
from headsearch.study.setup import SearchSetup, prepare
from headsearch.training.loop import train_window, window_from
from headsearch.training.setup import attach
from headsearch.training.trainer import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--eval-data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--coupling", choices=["joint", "observe"], default="joint")
    parser.add_argument("--from", dest="share", type=float, default=0.75)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    name = f"fork-{arguments.coupling}-{round(100 * arguments.share)}"
    table = arguments.out / "searches" / f"{name}.csv"
    table.parent.mkdir(exist_ok=True)
    rows = pd.read_csv(table).to_dict("records") if table.exists() else []
    done = {row["candidate"] for row in rows if row["seed"] == arguments.seed}
    prepared = prepare(
        resolve({
            **ground_truth.BASE, **ground_truth.TRAINING, **ground_truth.SCORES,
            "space": str(ground_truth.SPACE), "data": arguments.data, "trials": 64, "threads": 1,
            "eval_data": arguments.eval_data, "seed": arguments.seed,
            "coupling": arguments.coupling,
        })
    )  # fmt: skip
    assert prepared.listing is not None
    wanted = [head for head in prepared.listing.candidates if head.name not in done]
    if not wanted:
        return
    fork_step = round(arguments.share * prepared.training.steps)
    joint = prepared.training.new_trainer(prepared.config.coupling)
    for head in prepared.listing.candidates:
        attach(joint, prepared.training, head)
    run_through(joint, prepared, 0, fork_step)
    cost = cost_of(prepared, fork_step / prepared.training.steps)
    for head in wanted:
        rows.append({"candidate": head.name, "seed": arguments.seed,
                     **finished_alone(joint, prepared, head, fork_step),
                     "cost_base_equivalents": cost})  # fmt: skip
        write_table(table, pd.DataFrame(rows))
        print(rows[-1], flush=True)


def cost_of(prepared: SearchSetup, share: float) -> float:
    """The cost of all forks, in trainings of the base without heads, counted by GFLOPs.

    Args:
        prepared: the search whose heads fork.
        share: the part of the steps in which all heads train together.
    """
    assert prepared.listing is not None
    heads = [head.gflops / prepared.plan.gflops for head in prepared.listing.candidates]
    return share * (1 + sum(heads)) + (1 - share) * sum(1 + head for head in heads)


def finished_alone(
    joint: Trainer, prepared: SearchSetup, head: Candidate, fork_step: int
) -> dict[str, float]:
    """The accuracies of base and head after one head has trained alone from the fork to the end.

    They are measured on the labels that may be used to choose heads.

    Args:
        joint: the trainer of all heads, at the fork; it is left as it is.
        prepared: the search.
        head: the head that continues.
        fork_step: how many steps the joint training took.
    """
    alone = prepared.training.new_trainer("joint")  # as in a solo run, whatever the coupling before
    attach(alone, prepared.training, head)
    alone.load_state(joint.state([head.name]))
    run_through(alone, prepared, fork_step, prepared.training.steps)
    scores = prepared.training.scores(alone.teacher.network)
    assert scores.base.choose is not None
    head_scores = scores.heads[head.name].choose
    assert head_scores is not None
    return {
        "fork_knn": scores.base.choose.knn,
        "fork_linear": scores.base.choose.linear,
        "fork_accuracy": scores.base.choose.mean,
        "fork_head_accuracy": head_scores.mean,
    }


def run_through(trainer: Trainer, prepared: SearchSetup, first: int, last: int) -> None:
    """Trains from step `first` to step `last`."""
    loader = prepared.training.new_loader()
    while first < last:
        progress = train_window(trainer, loader, window_from(first, last))
        first = progress.step
        assert progress.stats is not None
        check_stats(progress.stats, prepared.config.peak_lr)


if __name__ == "__main__":
    main()
