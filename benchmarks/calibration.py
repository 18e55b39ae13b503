"""How well searches predict the ground truth: made from the tables that stand beside it.

    python benchmarks/calibration.py --out results/cifar10

Reads `ground_truth.csv` and `searches/*.csv`, and writes

- `search_scores.csv`: the scores of the default search, DEFAULT, at its last rung;
- `calibration.csv`: how each of them ranks the heads, of each half and of all: PRIMARY was chosen
  on the half `tune` alone, and `confirm` is what it came to on heads that had no part in that;
- `variants.csv`: what decides the agreement: every search and score on the half `tune`;
- `end_to_end.csv`: what searches that pruned found, with their first three heads verified, and what
  that cost beside the solo runs that it stands for.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from headsearch.report.statistics.calibration import calibrate
from headsearch.report.statistics.score_columns import scores_from
from headsearch.runs.tables import write_table

DEFAULT = "observe"
PRIMARY = "head_accuracy"
WINDOWS = {"last rung": 1, "mean of the last two": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    truth = read_truth(out)
    costs = pd.read_csv(out / "searches" / "costs.csv")
    searches = {
        file.stem: pd.read_csv(file)
        for file in sorted((out / "searches").glob("*.csv"))
        if file.stem not in ("costs", "pruned")
    }
    scores = scores_at_the_end(searches[DEFAULT])
    write_table(out / "search_scores.csv", scores.sort_values(["seed", "candidate"]))
    halves = {half: truth[truth["split"] == half] for half in ("tune", "confirm")}
    tables = [
        agreement(half, scores, searches[DEFAULT]).assign(split=name)
        for name, half in {**halves, "all": truth}.items()
    ]
    calibration = pd.concat(tables)
    first = ["split", "score", "primary", "tau", "tau_low", "tau_high", "ceiling", "regret_sd",
             "best_in_top3"]  # fmt: skip
    rest = [name for name in calibration.columns if name not in first]
    write_table(out / "calibration.csv", calibration[first + rest])

    rows = []
    for name, table in searches.items():
        for window, rungs in WINDOWS.items() if "rung" in table else {"end": 1}.items():
            found = agreement(halves["tune"], scores_at_the_end(table, rungs), table)
            of = costs[costs["variant"] == name] if "rung" in table else table
            cost, seeds = of["cost_base_equivalents"].mean(), table["seed"].nunique()
            rows.append(found.assign(variant=name, window=window, searches=seeds, cost=cost))
    variants = pd.concat(rows)
    variants["tau_over_ceiling"] = variants["tau"] / variants["ceiling"]
    first = ["variant", "window", "searches", "score", "tau", "tau_low", "tau_high",
             "tau_of_one_search", "ceiling", "tau_over_ceiling", "regret_sd", "best_in_top3",
             "seed_to_seed_tau", "cost"]  # fmt: skip
    write_table(out / "variants.csv", variants[first].sort_values("tau", ascending=False))
    print(variants[first].sort_values("tau", ascending=False).round(2).to_string(index=False))
    print(calibration.round(2).to_string(index=False))
    if (out / "searches" / "pruned.csv").exists():
        write_table(out / "end_to_end.csv", found := end_to_end(out, truth, costs))
        print(found.round(2).to_string(index=False))


def end_to_end(out: Path, truth: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """A row a pruned search: its first head, the best of its first three by solo runs, the costs.

    Costs are in trainings of the base alone, under one seed: of the search, of its first three
    heads and no head alone, and of all heads and no head alone.
    """
    pruned, rows = pd.read_csv(out / "searches" / "pruned.csv"), []
    gain = truth.groupby("candidate")["accuracy"].mean()
    chosen = truth.assign(by=truth[["choose_knn", "choose_linear"]].mean(axis=1))
    measured = chosen.groupby("candidate")["by"].mean()
    for seed, search in pruned.groupby("seed"):
        cost = costs[(costs["variant"] == "pruned") & (costs["seed"] == seed)].iloc[0]
        heads = search.drop_duplicates("candidate").set_index("candidate")["gflops"]
        base = heads.sum() / (cost["solo_equivalents"] - len(heads))
        alone = 1 + heads[heads.index.isin(gain.index)] / base
        last = search[search["rung"] == search["rung"].max()]
        ranked = last[last["candidate"].isin(gain.index)].sort_values("score", ascending=False)
        top = list(ranked["candidate"][:3])
        best = measured[top].idxmax()
        verification, all_alone = 1 + alone[top].sum(), 1 + alone.sum()
        searched = cost["cost_base_equivalents"]
        rows.append({
            "seed": seed, "first": top[0], "regret_sd": _regret(gain, top[0]),
            "best_of_three": best, "regret_sd_verified": _regret(gain, best),
            "search": searched, "verification": verification, "all_alone": all_alone,
            "share": (searched + verification) / all_alone, "heads": len(alone),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _regret(gain: pd.Series[float], head: str) -> float:
    return float((gain.max() - gain[head]) / gain.std())


def read_truth(out: Path) -> pd.DataFrame:
    """The solo runs of heads, with the accuracy that a gain is one in; controls are left out."""
    table = pd.read_csv(out / "ground_truth.csv")
    table["accuracy"] = table[["base_knn", "base_linear"]].mean(axis=1)
    heads = table[table["split"] != "control"]
    whole = heads["candidate"].value_counts().groupby(level=0).first()
    seeds = heads.groupby("seed")["candidate"].nunique()
    return heads[heads["seed"].isin(seeds[seeds == len(whole)].index)]


def scores_at_the_end(table: pd.DataFrame, rungs: int = 1) -> pd.DataFrame:
    """Every score of a search, a row a head and seed: means over its last rungs."""
    if "rung" not in table:  # of solo forks, scored at their end alone
        return table.drop(columns="cost_base_equivalents")
    last = table[table["rung"] > table["rung"].max() - rungs]
    found = pd.concat([scores_from(at) for _, at in last.groupby("rung")])
    return found.groupby(["candidate", "seed"], as_index=False).mean()


def agreement(truth: pd.DataFrame, scores: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """How each score ranks these heads."""
    primary = PRIMARY if PRIMARY in scores else scores.columns[2]
    mine = scores[scores["candidate"].isin(truth["candidate"])]
    earlier = None
    if "rung" in table:
        before = scores_from(table[table["rung"] == table["rung"].max() - 1])
        earlier = before[before["candidate"].isin(truth["candidate"])]
    return calibrate(truth, mine, primary, earlier=earlier).table()


if __name__ == "__main__":
    main()
