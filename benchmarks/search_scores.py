"""Runs searches over the heads of the ground truth, in several variants and under several seeds.

    python benchmarks/search_scores.py --data train.tar --eval-data val.tar --out results/cifar10

Writes `searches/VARIANT.csv`, a row for each head, seed and rung, and `searches/costs.csv`, a row
for each search as it ends; started again, the benchmark continues with the searches that are
missing. Base, images, labels, length and heads are those of `ground_truth.py`. Nothing is pruned,
so that every head has every score, but in the variant `pruned`: that is the search that the tool
runs by default, and serves to measure its cost.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import ground_truth
import pandas as pd
from in_processes import in_processes

import headsearch
from headsearch.runs.tables import write_table

VARIANTS: dict[str, dict[str, Any]] = {
    "joint": {"coupling": "joint"},
    "observe": {"coupling": "observe"},
    "pruned": {"coupling": "observe", "pruner": "rung"},
    "observe-share": {"coupling": "observe", "images_per_head": "share"},
    "observe-32": {"coupling": "observe", "images_per_head": 32},
}
"""The settings in which the compared searches differ."""

SETTINGS = {"rungs": 4, "pruner": "none", "trials": 64, "cohort": 64, "threads": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--eval-data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="searches at once, a thread each")
    arguments = parser.parse_args()
    folder = arguments.out / "searches"
    folder.mkdir(parents=True, exist_ok=True)
    costs = _read(folder / "costs.csv")
    done = {(row["variant"], row["seed"]) for row in costs.to_dict("records")}
    wanted = [(v, s) for s in arguments.seeds for v in arguments.variants if (v, s) not in done]
    images = arguments.data, arguments.eval_data
    ended = in_processes(search, wanted, *images, jobs=arguments.jobs)
    for (variant, seed), (scores, cost) in ended:
        table = folder / f"{variant}.csv"
        known = pd.concat([_read(table), scores])
        # Interrupted between the two tables, a search leaves scores without costs, and runs again.
        known = known.drop_duplicates(["candidate", "seed", "rung"], keep="last")
        write_table(table, known.sort_values(["seed", "rung"]))
        row = pd.DataFrame([{"variant": variant, "seed": seed, **cost}])
        costs = pd.concat([costs, row]).sort_values(["variant", "seed"])
        write_table(folder / "costs.csv", costs)
        print(f"{variant} seed {seed}: {cost}", flush=True)


def search(
    variant: str, seed: int, data: str, eval_data: str
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Runs one search; returns its scores.csv with the sizes of the heads, and its cost."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            **ground_truth.BASE, **ground_truth.TRAINING, **ground_truth.SCORES, **SETTINGS,
            **VARIANTS[variant],
        }  # fmt: skip
        result = headsearch.search(
            space=ground_truth.SPACE, data=data, eval_data=eval_data, seed=seed,
            out=Path(folder) / "run", progress=False, **settings,
        )  # fmt: skip
        sizes = result.ranking[["candidate", "family", "params_m", "gflops"]]
        cost = {
            "cost_base_equivalents": result.run.facts["cost_base_equivalents"],
            "solo_equivalents": result.run.facts["solo_equivalents"],
            "wall_s": result.run.facts["wall_s"],
            "score_s": result.run.facts["score_s"],
        }
        return result.run.scores.merge(sizes, on="candidate"), cost


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path) if path.exists() else pd.DataFrame()


if __name__ == "__main__":
    main()
