"""The ground truth: what each head does for the base when it trains alone.

    python benchmarks/ground_truth.py --data train.tar --eval-data val.tar --out results/cifar10

Writes `ground_truth.csv`, a row a solo run, as they end; run again, it goes on with the rest.
The heads are those of `ground_truth.yaml`, and `none`. Half of the heads, drawn by SPLIT_SEED
before any of them was trained, are for choosing scores and settings (`split` is `tune`), the other
half for reporting on them once (`confirm`); controls are `control`.

All runs share images and labels, and those of one seed first weights, order and augmentation too.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from in_processes import in_processes

import headsearch
from headsearch.runs.tables import write_table

BASE = {
    "base": "vit_tiny_patch16_224",
    "base_args": "depth=6,embed_dim=96,num_heads=3,class_token=False,global_pool=avg",
    "patch_size": 8,
}
TRAINING = {
    "objective": "simclr",
    "images": 20_000,
    "epochs": 6,
    "batch_size": 128,
    "lr": 1e-3,
    "precision": "bf16",
}
SCORES = {"eval_images": 5000, "bank_images": 4000, "data_seed": 0}
SPACE = Path(__file__).with_suffix(".yaml")
SPLIT_SEED = 20
NONE = "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--eval-data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="solo runs at once, a thread each")
    arguments = parser.parse_args()
    table = arguments.out / "ground_truth.csv"
    rows = pd.read_csv(table).to_dict("records") if table.exists() else []
    done = {(row["candidate"], row["seed"]) for row in rows}
    heads = contestants()
    wanted = [
        (head, seed)
        for seed in arguments.seeds
        for head in heads["candidate"]
        if (head, seed) not in done
    ]
    images = arguments.data, arguments.eval_data
    for (head, seed), scores in in_processes(solo, wanted, *images, jobs=arguments.jobs):
        about = heads[heads["candidate"] == head].iloc[0].to_dict()
        rows.append({**about, "seed": seed, **scores})
        found = pd.DataFrame(rows)
        found["candidate"] = pd.Categorical(found["candidate"], list(heads["candidate"]))
        write_table(table, found.sort_values(["seed", "candidate"]))
        print(f"{len(rows)}: {rows[-1]}", flush=True)


def contestants() -> pd.DataFrame:
    """`candidate, family, split`: no head, controls, and heads with their half."""
    found = headsearch.candidates(SPACE, BASE["base"], patch_size=BASE["patch_size"],
                                  base_args=BASE["base_args"])  # fmt: skip
    heads = sorted(found.loc[~found["control"], "candidate"])
    tune = set(random.Random(SPLIT_SEED).sample(heads, len(heads) // 2))
    found["split"] = ["tune" if name in tune else "confirm" for name in found["candidate"]]
    found.loc[found["control"], "split"] = "control"
    none = pd.DataFrame([{"candidate": NONE, "family": NONE, "split": "control"}])
    return pd.concat([none, found[["candidate", "family", "split"]]], ignore_index=True)


def solo(head: str, seed: int, data: str, eval_data: str) -> dict[str, Any]:
    """What the base scores after a solo run, with what the head itself came to."""
    with tempfile.TemporaryDirectory() as folder:
        done = headsearch.pretrain(
            head=head, data=data, eval_data=eval_data, seed=seed, rungs=1, threads=1,
            out=Path(folder) / "run", progress=False, **BASE, **TRAINING, **SCORES,
        )  # fmt: skip
    first, last = done.scores.iloc[0], done.scores.iloc[-1]
    return {
        "base_knn": last["base_knn"],
        "base_linear": last["base_linear"],
        "choose_knn": last["choose_knn"],
        "choose_linear": last["choose_linear"],
        "untrained_knn": first["base_knn"],
        "untrained_linear": first["base_linear"],
        "head_knn": last["head_knn"],
        "head_linear": last["head_linear"],
        "discrepancy": last["discrepancy"],
        "effective_rank": last["effective_rank"],
        "steps": int(last["step"]),
    }


if __name__ == "__main__":
    main()
