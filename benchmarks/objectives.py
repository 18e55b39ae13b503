"""Checks that every objective trains: pretrains one small base with each, with the same head.

    python benchmarks/objectives.py --data train.tar --eval-data val.tar --out results/cifar10

Writes `objectives.csv`, a row for each run as it ends; started again, the benchmark continues with
the runs that are missing. A row holds the scores of the base before and after training, on the same
images, and its effective rank, which a collapse would lower.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

import headsearch
from headsearch.runs.tables import write_table
from headsearch.training.objectives import OBJECTIVES

BASE = {
    "base": "vit_tiny_patch16_224",
    "base_args": "depth=6,embed_dim=96,num_heads=3",
    "patch_size": 8,
}
TRAINING = {"images": 10_000, "batch_size": 64, "lr": 1e-3, "rungs": 1}
SCORES = {"eval_images": 4000, "bank_images": 4000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--eval-data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--head", default="convnext-d3-k7-noshortcut")
    parser.add_argument("--epochs", type=int, default=2, help="of 10,000 images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES), choices=OBJECTIVES)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    table = arguments.out / "objectives.csv"
    rows = pd.read_csv(table).to_dict("records") if table.exists() else []
    key = ("objective", "head", "seed", "epochs")
    done = {tuple(row[column] for column in key) for row in rows}
    for seed in arguments.seeds:
        for objective in arguments.objectives:
            wanted = (objective, arguments.head, seed, arguments.epochs)
            if wanted in done:
                continue
            rows.append(dict(zip(key, wanted, strict=True)) | trained(objective, seed, arguments))
            write_table(table, pd.DataFrame(rows))
            print(pd.DataFrame(rows[-1:]).to_string(index=False), flush=True)


def trained(objective: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The scores of the base before and after training with this objective."""
    with tempfile.TemporaryDirectory() as folder:
        run = headsearch.pretrain(
            head=arguments.head,
            data=arguments.data,
            eval_data=arguments.eval_data,
            objective=objective,
            epochs=arguments.epochs,
            seed=seed,
            threads=arguments.threads,
            out=Path(folder) / "run",
            progress=False,
            **BASE,
            **TRAINING,
            **SCORES,
        )
    first, last = run.scores.iloc[0], run.scores.iloc[-1]
    scores = {"steps": int(last["step"])}
    for column in ("base_knn", "base_linear", "effective_rank"):
        scores[f"untrained_{column.removeprefix('base_')}"] = first[column]
        scores[column] = last[column]
    return scores | {"loss": last["loss"]}


if __name__ == "__main__":
    main()
