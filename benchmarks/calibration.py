"""Measures how well the scores of searches predict the gains of solo runs, from their tables.

    python benchmarks/calibration.py --out results/cifar10

Reads `ground_truth.csv` (solo runs) and `searches/*.csv`, and writes

- `search_scores.csv`: the scores of the default search, DEFAULT, at its last rung;
- `calibration.csv`: how well each of these scores ranks the heads of each half and of both. The
  score PRIMARY was chosen on the half `tune` alone; `confirm` holds heads that the choice did not
  see;
- `variants.csv`: every search and score on the half `tune`, to compare settings;
- `with_controls.csv`: how well the scores rank all heads, with the controls `identity` and `own`
  counted as heads; with and without the heads that every search set aside as collapsed, which then
  rank last. Computed after `calibration.csv` was known, and beside it;
- `gains.csv`: the gain of every head over no head and over `own`, by the mean of both halves of the
  labels, with its uncertainty over seeds and over images;
- `stops.csv`: where the default searches would end under `--stop settled`, a rule that was chosen
  on them: rung and step, and τ of PRIMARY there and at the last rung, over all heads;
- `end_to_end.csv`: what searches with pruning found, with their top three heads verified by solo
  runs, and the cost of that beside the cost of solo runs of all heads.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import pandas as pd
from ground_truth import SCORES
from settled import base_accuracies, settled_rung

from headsearch.report.statistics.calibration import calibrate
from headsearch.report.statistics.gains import gains
from headsearch.report.statistics.rank_correlation import tau_b
from headsearch.report.statistics.score_columns import collapsed_last, scores_from
from headsearch.runs.tables import FURTHER_SCORES, write_table

DEFAULT = "observe"
"""The variant of `search_scores.py` in the default coupling, without pruning."""
PRIMARY = "head_accuracy"
NONE, OWN = "none", "own-d2"
"""The candidates that gains are measured against: no head, and the base's own kind of block."""
IMAGES = SCORES["eval_images"] // 2
"""The number of images on which a search chooses."""
WINDOWS = {"last rung": 1, "mean of the last two": 2}
"""How many of a search's last rungs a score is averaged over."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    truth = read_truth(out)
    costs = pd.read_csv(out / "searches" / "costs.csv")
    searches = {
        file.stem: read_search(file)
        for file in sorted((out / "searches").glob("*.csv"))
        if file.stem not in ("costs", "pruned")
    }
    scores = final_scores(searches[DEFAULT])
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
    controls = with_controls(out, scores, searches[DEFAULT])
    write_table(out / "with_controls.csv", controls)
    write_table(out / "gains.csv", gains_of_heads(out, scores))
    write_table(out / "stops.csv", stops(truth, searches[DEFAULT]))

    rows = []
    for name, table in searches.items():
        for window, rungs in WINDOWS.items() if "rung" in table else {"end": 1}.items():
            ranked = agreement(halves["tune"], final_scores(table, rungs), table)
            # Tables of forks hold their costs themselves, and have no rungs.
            costed = costs[costs["variant"] == name] if "rung" in table else table
            cost, seeds = costed["cost_base_equivalents"].mean(), table["seed"].nunique()
            rows.append(ranked.assign(variant=name, window=window, searches=seeds, cost=cost))
    variants = pd.concat(rows)
    variants["tau_over_ceiling"] = variants["tau"] / variants["ceiling"]
    first = ["variant", "window", "searches", "score", "tau", "tau_low", "tau_high",
             "tau_of_one_search", "ceiling", "tau_over_ceiling", "regret_sd", "best_in_top3",
             "seed_to_seed_tau", "cost"]  # fmt: skip
    write_table(out / "variants.csv", variants[first].sort_values("tau", ascending=False))
    print(variants[first].sort_values("tau", ascending=False).round(2).to_string(index=False))
    print(calibration.round(2).to_string(index=False))
    print(controls.round(2).to_string(index=False))
    if (out / "searches" / "pruned.csv").exists():
        results = end_to_end(out, truth, costs)
        write_table(out / "end_to_end.csv", results)
        print(results.round(2).to_string(index=False))


def with_controls(out: Path, scores: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """How well each score ranks all heads and the controls, with and without collapsed heads.

    Args:
        out: the folder of the tables.
        scores: `final_scores` of a search.
        table: its scores at all rungs, for the sizes of the heads that it set aside.
    """
    solo = read_solo(out)
    solo = solo[solo["candidate"] != NONE]
    counted = {"controls": scores, "controls and collapsed": collapsed_last(scores, table)}
    return pd.concat(
        calibrate(solo[solo["candidate"].isin(each["candidate"])], each, PRIMARY)
        .table()
        .assign(counted=name)
        for name, each in counted.items()
    )


def gains_of_heads(out: Path, scores: pd.DataFrame) -> pd.DataFrame:
    """The gain of each head in accuracy, a fraction, over no head and over `own`.

    `gain` is measured on both halves of the labels, `gain_report` on the reporting half alone.
    `se_seeds` is its standard error over seeds. `se_images` is its standard error over images,
    half of the root mean square, over heads, of the difference between the gains on both halves.
    """
    solo = read_solo(out)
    columns = {}
    for control in (NONE, OWN):
        suffix = "" if control == NONE else "_over_own"
        halves = {half: gains(solo, half, control) for half in ("report", "choose")}
        both = gains(solo, "accuracy_of_both", control)
        apart = [halves["report"][head].value - halves["choose"][head].value for head in both]
        columns |= {
            f"gain{suffix}": {head: gain.value for head, gain in both.items()},
            f"gain{suffix}_report": {h: gain.value for h, gain in halves["report"].items()},
            f"se_seeds{suffix}": {head: gain.error for head, gain in both.items()},
            f"se_images{suffix}": dict.fromkeys(
                both, math.sqrt(sum(each**2 for each in apart) / len(apart)) / 2
            ),
        }
    table = pd.DataFrame(columns).rename_axis("candidate").reset_index()
    discrepancy = scores.groupby("candidate")["discrepancy"].mean()
    table.insert(1, "discrepancy", table["candidate"].map(discrepancy))
    return table.sort_values("discrepancy", kind="stable")


def stops(truth: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """A row for each seed of a search without pruning: the rung where its order has settled.

    Args:
        truth: the solo runs of all heads.
        table: the search's scores at all rungs. Heads that it set aside rank last.
    """
    gain = truth.groupby("candidate")["accuracy_of_both"].mean()
    table = table.assign(accuracy=table[["choose_knn", "choose_linear"]].mean(axis=1))
    rows = []
    for seed, search in table.groupby("seed"):
        trained = search[search["rung"] > 0]
        wide = trained.pivot_table(index="rung", columns="candidate", values="accuracy")
        scores = wide.reindex(columns=gain.index)
        score_RH = scores.T.fillna(scores.min(axis=1) - 1).T.to_numpy()
        rung = settled_rung(score_RH, base_accuracies(search), IMAGES)
        steps = search.groupby("rung")["step"].first()
        rows.append({
            "seed": seed, "rung": rung, "step": steps[rung], "steps": steps.max(),
            "tau": tau_b(score_RH[rung - 1], gain.to_numpy()),
            "tau_last": tau_b(score_RH[-1], gain.to_numpy()),
        })  # fmt: skip
    return pd.DataFrame(rows)


def end_to_end(out: Path, truth: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """A row for each search with pruning: its top head, the best of its top three, and the costs.

    The best of the top three is chosen by solo runs, on the labels that may choose. Costs are in
    trainings of the base without heads under one seed: of the search; of solo runs of its top three
    heads and of no head; of solo runs of all heads and of no head. Regret is the gain that is
    missed by a choice, in standard deviations of the gain over heads.
    """
    pruned, rows = pd.read_csv(out / "searches" / "pruned.csv"), []
    gain = truth.groupby("candidate")["accuracy"].mean()
    choosing = truth.assign(accuracy=truth[["choose_knn", "choose_linear"]].mean(axis=1))
    measured = choosing.groupby("candidate")["accuracy"].mean()
    for seed, search in pruned.groupby("seed"):
        cost = costs[(costs["variant"] == "pruned") & (costs["seed"] == seed)].iloc[0]
        heads = search.drop_duplicates("candidate").set_index("candidate")["gflops"]
        # `solo_equivalents` is the sum of 1 + GFLOPs of a head over those of the base.
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
    """The solo runs of all heads but controls, with the accuracy in which a gain is measured.

    Seeds under which not every head has a run yet are left out.
    """
    table = read_solo(out)
    heads = table[table["split"] != "control"]
    all_heads = heads["candidate"].nunique()
    by_seed = heads.groupby("seed")["candidate"].nunique()
    return heads[heads["seed"].isin(by_seed[by_seed == all_heads].index)]


def read_search(file: Path) -> pd.DataFrame:
    """The scores of a search; those that did not exist when it was made are NaN."""
    table = pd.read_csv(file)
    if "rung" not in table:  # forks (forks.py) are scored once, at their end
        return table
    return table.assign(**{name: math.nan for name in FURTHER_SCORES if name not in table})


def read_solo(out: Path) -> pd.DataFrame:
    """All solo runs, with the accuracy on each half of the labels and on both."""
    table = pd.read_csv(out / "ground_truth.csv")
    table["report"] = table[["base_knn", "base_linear"]].mean(axis=1)
    table["choose"] = table[["choose_knn", "choose_linear"]].mean(axis=1)
    table["accuracy_of_both"] = table[["report", "choose"]].mean(axis=1)
    return table.assign(accuracy=table["report"])


def final_scores(table: pd.DataFrame, rungs: int = 1) -> pd.DataFrame:
    """Every score of a search, a row for each head and seed: means over its last rungs."""
    if "rung" not in table:  # forks (forks.py) are scored once, at their end
        return table.drop(columns="cost_base_equivalents")
    last = table[table["rung"] > table["rung"].max() - rungs]
    scores = pd.concat([scores_from(rung) for _, rung in last.groupby("rung")])
    means = scores.groupby(["candidate", "seed"], as_index=False).mean()
    return means.dropna(axis="columns", how="all")  # scores that the search did not measure


def agreement(truth: pd.DataFrame, scores: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """How well each score ranks the heads of the ground truth.

    Args:
        truth: solo runs, of one half of the heads or of both.
        scores: `final_scores` of a search.
        table: the search's scores at all rungs, for the agreement of a rung with the one before.
    """
    # The first two columns are candidate and seed.
    primary = PRIMARY if PRIMARY in scores else scores.columns[2]
    of_heads = scores[scores["candidate"].isin(truth["candidate"])]
    earlier = None
    if "rung" in table:
        before = scores_from(table[table["rung"] == table["rung"].max() - 1])
        earlier = before[before["candidate"].isin(truth["candidate"])]
    return calibrate(truth, of_heads, primary, earlier=earlier).table()


if __name__ == "__main__":
    main()
