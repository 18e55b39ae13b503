"""Solo forks: what the base comes to when each head alone finishes what all began.

    python benchmarks/forks.py --data train.tar --eval-data val.tar --out results/cifar10

All heads train on one base up to a share of the steps (`--from`); from that snapshot the base goes
on with each head alone to the end, and its accuracy there is the head's score. Writes
`searches/fork-COUPLING-SHARE.csv`, a row a head and seed, as they come; run again, it goes on.
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
    first = round(arguments.share * prepared.training.steps)
    together = prepared.training.new_trainer(prepared.config.coupling)
    for head in prepared.listing.candidates:
        attach(together, prepared, head)
    run_through(together, prepared, 0, first)
    cost = cost_of(prepared, first / prepared.training.steps)
    for head in wanted:
        rows.append({"candidate": head.name, "seed": arguments.seed,
                     **finish(together, prepared, head, first),
                     "cost_base_equivalents": cost})  # fmt: skip
        write_table(table, pd.DataFrame(rows))
        print(rows[-1], flush=True)


def cost_of(prepared: SearchSetup, share: float) -> float:
    """In units of the base's own training: all together up to a share, then each alone."""
    assert prepared.listing is not None
    heads = [head.gflops / prepared.plan.gflops for head in prepared.listing.candidates]
    return share * (1 + sum(heads)) + (1 - share) * sum(1 + head for head in heads)


def finish(
    together: Trainer, prepared: SearchSetup, head: Candidate, first: int
) -> dict[str, float]:
    """The base's accuracies after going on with one head alone, on the labels that may choose."""
    alone = prepared.training.new_trainer("joint")
    attach(alone, prepared.training, head)
    alone.load_state(together.state([head.name]))
    run_through(alone, prepared, first, prepared.training.steps)
    scores = prepared.training.scores(alone.teacher.network)
    assert scores.base.choose is not None
    of_head = scores.heads[head.name].choose
    assert of_head is not None
    return {
        "fork_knn": scores.base.choose.knn,
        "fork_linear": scores.base.choose.linear,
        "fork_accuracy": scores.base.choose.mean,
        "fork_head_accuracy": of_head.mean,
    }


def run_through(trainer: Trainer, prepared: SearchSetup, first: int, last: int) -> None:
    loader = prepared.training.new_loader()
    while first < last:
        progress = train_window(trainer, loader, window_from(first, last))
        first = progress.step
        assert progress.stats is not None
        check_stats(progress.stats, prepared.config.lr)


if __name__ == "__main__":
    main()
