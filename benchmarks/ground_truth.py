"""Measures the ground truth of a search: the base's accuracy after a solo run with each head.

    python benchmarks/ground_truth.py --data train.tar --eval-data val.tar --out results/cifar10

Writes `ground_truth.csv`, a row for each solo run as it ends; started again, the benchmark
continues with the runs that are missing. The heads are those of `ground_truth.yaml`, and `none`,
the base without a head. One half of the heads, drawn by SPLIT_SEED before any of them was trained,
serves to choose scores and settings (`split` is `tune`), the other half to report on the choice
once (`confirm`). The split of controls and of `none` is `control`.

All runs use the same images and labels; those of one seed also have the same first weights, data
order and augmentation.
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
"""Settings of the proxies. `data_seed` fixes the images, whatever the seed of a run."""
SPACE = Path(__file__).with_suffix(".yaml")
SPLIT_SEED = 20
"""Decides which heads are in which half."""
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
        results = pd.DataFrame(rows)
        # Sorted in the order of the space, not by name.
        results["candidate"] = pd.Categorical(results["candidate"], list(heads["candidate"]))
        write_table(table, results.sort_values(["seed", "candidate"]))
        print(f"{len(rows)}: {rows[-1]}", flush=True)


def contestants() -> pd.DataFrame:
    """`candidate, family, split` of no head, of controls, and of the heads of both halves."""
    listed = headsearch.candidates(SPACE, BASE["base"], patch_size=BASE["patch_size"],
                                  base_args=BASE["base_args"])  # fmt: skip
    heads = sorted(listed.loc[~listed["control"], "candidate"])
    tune = set(random.Random(SPLIT_SEED).sample(heads, len(heads) // 2))
    listed["split"] = ["tune" if name in tune else "confirm" for name in listed["candidate"]]
    listed.loc[listed["control"], "split"] = "control"
    none = pd.DataFrame([{"candidate": NONE, "family": NONE, "split": "control"}])
    return pd.concat([none, listed[["candidate", "family", "split"]]], ignore_index=True)


def solo(head: str, seed: int, data: str, eval_data: str) -> dict[str, Any]:
    """The scores of the base before and after a solo run, and those of the head after it."""
    with tempfile.TemporaryDirectory() as folder:
        run = headsearch.pretrain(
            head=head, data=data, eval_data=eval_data, seed=seed, rungs=1, threads=1,
            out=Path(folder) / "run", progress=False, **BASE, **TRAINING, **SCORES,
        )  # fmt: skip
    first, last = run.scores.iloc[0], run.scores.iloc[-1]
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
