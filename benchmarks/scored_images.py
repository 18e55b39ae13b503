"""How many images heads have to be scored on: what fewer do to a ranking, against the ground truth.

    python benchmarks/scored_images.py --data train.tar --eval-data val.tar --out results/cifar10

Searches as `search_scores.py` makes them (`observe`, nothing pruned), scored at their end on a bank
of 16,000 images and all 5,000 queries, whose features are kept in `--features`. Then each head is
scored as if there had been fewer, drawn DRAWS times, and its rank compared with what the head is
worth by `ground_truth.csv`. Labels that choose are used here, those that are reported on there.
Writes `scored_images.csv`, a row a size.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import ground_truth
import numpy as np
import pandas as pd
import torch
from in_processes import in_processes
from scipy.stats import kendalltau
from search_scores import SETTINGS, VARIANTS
from torch import Tensor

import headsearch
from headsearch.checkpoint import write_table
from headsearch.scores import rung
from headsearch.scores.features import RungFeatures
from headsearch.scores.proxy import accuracy, knn_predict, linear_predict

BANK = 16_000
SIZES = [
    (500, 250), (1000, 300), (1000, 1000), (2000, 1000), (2000, 2000), (2500, 2000), (3000, 1500),
    (4000, 1000), (4000, 2000), (4000, 2500), (16_000, 2500),
]  # fmt: skip
"""Images of the bank, and queries whose labels choose: half of a search's queries."""
DRAWS = 5
COLLAPSED = "attention-d2-noshortcut"
"""Which every search set aside."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--eval-data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--features", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--jobs", type=int, default=2, help="searches at once, a thread each")
    arguments = parser.parse_args()
    files = {seed: arguments.features / f"scored_images_{seed}.pt" for seed in arguments.seeds}
    images = arguments.data, arguments.eval_data
    missing = [(seed, str(file)) for seed, file in files.items() if not file.exists()]
    for (seed, _), _ in in_processes(keep_features, missing, *images, jobs=arguments.jobs):
        print(f"seed {seed}: trained", flush=True)
    gains = gains_of(pd.read_csv(arguments.out / "ground_truth.csv"))
    kept = {seed: torch.load(file, weights_only=True) for seed, file in files.items()}
    full = {seed: scores(each, BANK, None, draw=0) for seed, each in kept.items()}
    rows: list[dict[str, Any]] = []
    for bank, queries in SIZES:
        taus, with_full, of_means = [], [], []
        for draw in range(DRAWS if bank < BANK else 1):
            found = {seed: scores(each, bank, queries, draw) for seed, each in kept.items()}
            taus += [tau(each, gains) for each in found.values()]
            with_full += [tau(found[seed], full[seed][gains.index]) for seed in found]
            of_means.append(tau(pd.DataFrame(found).mean(axis=1), gains))
        rows.append({
            "bank": bank, "queries": 2 * queries, "tau": np.mean(taus),
            "tau_sd": np.std(taus, ddof=1), "tau_of_mean_of_seeds": np.mean(of_means),
            "tau_with_largest": np.mean(with_full), "searches": len(kept), "draws": DRAWS,
        })  # fmt: skip
        write_table(arguments.out / "scored_images.csv", pd.DataFrame(rows))
        print(rows[-1], flush=True)


def keep_features(seed: int, file: str, data: str, eval_data: str) -> None:
    """Trains a search, and keeps the features that its heads had at the end."""
    pooled: dict[str, Tensor] = {}

    class Keeping(RungFeatures):
        def head(self, name: str) -> Tensor:
            pooled[name] = super().head(name)
            labels.update(bank=self._data.bank.labels, queries=self._data.queries.labels,
                          choose=self._data.choose)  # fmt: skip
            return pooled[name]

    labels: dict[str, Tensor] = {}
    rung.RungFeatures = Keeping
    settings = {
        **ground_truth.BASE, **ground_truth.TRAINING, **ground_truth.SCORES, **SETTINGS,
        **VARIANTS["observe"], "bank_images": BANK, "rungs": 1,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        headsearch.search(
            space=ground_truth.SPACE, data=data, eval_data=eval_data, seed=seed,
            out=Path(folder) / "run", progress=False, **settings,
        )  # fmt: skip
    torch.save({"pooled": pooled, **labels}, file)


def gains_of(truth: pd.DataFrame) -> pd.Series:
    """What each head, collapsed ones and controls apart, does for the base: the mean over seeds."""
    truth = truth.assign(accuracy=truth[["base_knn", "base_linear"]].mean(axis=1))
    by_head = truth.pivot(index="candidate", columns="seed", values="accuracy")
    heads = truth.loc[truth["split"] != "control", "candidate"].unique()
    gains = by_head.sub(by_head.loc[ground_truth.NONE]).mean(axis=1)
    return gains[[head for head in heads if head != COLLAPSED]]


def scores(kept: dict[str, Any], bank: int, queries: int | None, draw: int) -> pd.Series:
    """The accuracy of each head, on so many images of the bank and so many queries."""
    generator = torch.Generator().manual_seed(draw)
    count, chosen = len(kept["queries"]), kept["choose"]
    chosen = chosen[torch.randperm(len(chosen), generator=generator)[:queries]]
    learned = torch.randperm(len(kept["bank"]), generator=generator)[:bank]
    classes = int(kept["queries"].max()) + 1
    found = {}
    for name, pooled_ND in kept["pooled"].items():
        of_bank = pooled_ND[count + learned], kept["bank"][learned]
        predicted = [
            predict(*of_bank, pooled_ND[chosen], classes)
            for predict in (knn_predict, linear_predict)
        ]
        labels = kept["queries"][chosen]
        found[name] = sum(accuracy(each, labels) for each in predicted) / 2
    return pd.Series(found)


def tau(first: pd.Series, second: pd.Series) -> float:
    """Kendall's, over the heads of the second."""
    return float(kendalltau(first[second.index], second).statistic)


if __name__ == "__main__":
    main()
