"""Analyses the carry-over benchmark as PROTOCOL.md says, once all runs are in.

    python benchmarks/carry_over/analyse.py --out results/carry_over

Reads `solo.csv` and `searches.csv`. While runs are missing, it says which, and the reliability of
the gains so far, which is computed without any score. With all runs in, it writes

- `tau.csv`: how well each score ranks the gains of each setting;
- `summary.csv`: each score over all settings, with the interval of its mean τ;
- `rungs.csv`: the mean τ of each score at each rung, and the cost of a search up to there;
- `choice.csv`: for each setting, the score that the other six would choose, and its τ there;
- `stops.csv`: for each search, the rung at which the order of its heads had settled, what it
  costs up to there, and its τ there and at the last rung.

Shapes: H heads, Z seeds of searches.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from agreement import PRIMARY, interval_of_mean, over_settings, per_setting, random_order, tau_of
from run import LAST_RUNG, heads_of
from settings import SETTINGS
from stopping import stops, verdict_on_stopping
from tables import Array, Refused, Truth, missing_runs, read_tables, scores_at, truth_of

from headsearch.report.statistics.calibration import reliability
from headsearch.runs.published_gains import least_squares, static_prior
from headsearch.runs.tables import write_table

LEAST = 0.30
"""The lower bound of the primary result must exceed it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    solo, searches = read_tables(out)
    expected = {name: heads_of(name) for name in SETTINGS}
    missing = missing_runs(solo, searches, expected)
    truths = {
        name: truth_of(solo[solo["setting"] == name])
        for name in SETTINGS
        if not any(setting == name and what not in LAST_RUNG for setting, what, _ in missing)
    }
    for name, truth in truths.items():
        print(f"{name}: reliability {reliability(truth.gain_HS):.2f}")
    if missing:
        listed = ", ".join(" ".join(map(str, run)) for run in sorted(missing)[:5])
        raise Refused(f"{len(missing)} runs are missing (first {listed}): no score is analysed yet")
    tables = analysis(truths, searches)
    for name, table in tables.items():
        write_table(out / f"{name}.csv", table)
        print(table.round(3).to_string(index=False))
    print(verdict(tables["summary"]))
    print(verdict_on_stopping(truths, searches))


def analysis(truths: Mapping[str, Truth], searches: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """All tables, by name.

    Args:
        truths: the gains by setting.
        searches: searches.csv, whole.
    """
    last = {coupling: scores_at(searches, truths, coupling, rung)
            for coupling, rung in LAST_RUNG.items()}  # fmt: skip
    last["observe"] |= without_search(truths) | refitted(truths, last["observe"])
    costs = searches.groupby(["coupling", "rung"])["cost"].mean()
    tau_rows, summary_rows = [], []
    for coupling, scores in last.items():
        for name, by_setting in scores.items():
            free = name in FREE
            if free and coupling != "observe":
                continue  # the same again
            cost = 0.0 if free else float(costs[coupling, LAST_RUNG[coupling]])
            about = {"score": name, "coupling": "none" if free else coupling}
            tau_rows += [{**about, **row} for row in per_setting(truths, by_setting)]
            summary_rows.append({**about, **over_settings(truths, by_setting), "cost": cost})
    by_rung = [
        {"score": name, "coupling": coupling, "rung": rung,
         **interval_of_mean(truths, by_setting), "cost": float(costs[coupling, rung])}
        for coupling, to in LAST_RUNG.items()
        for rung in range(1, to + 1)
        for name, by_setting in scores_at(searches, truths, coupling, rung).items()
    ]  # fmt: skip
    summary_rows.append({"score": "random", "coupling": "none", **random_order(truths), "cost": 0})
    summary = pd.DataFrame(summary_rows).sort_values("tau", ascending=False)
    return {
        "tau": pd.DataFrame(tau_rows),
        "summary": summary,
        "rungs": pd.DataFrame(by_rung),
        "choice": choice(truths, last["observe"]),
        "stops": stops(truths, searches),
    }


FREE = ("static_prior", "params_m", "gflops")
"""Scores that need no search."""


def without_search(truths: Mapping[str, Truth]) -> dict[str, dict[str, Array]]:
    """The static prior: the mean relative gain of a head in the other settings."""
    table = pd.DataFrame(
        {"setting": setting, "candidate": head, "family": head, "gain": gain}
        for setting, truth in truths.items()
        for head, gain in zip(truth.heads, truth.gain_H, strict=True)
    )
    return {
        "static_prior": {
            setting: np.array(
                [[static_prior(head, head, table[table["setting"] != setting])]
                 for head in truth.heads]
            )
            for setting, truth in truths.items()
        }
    }  # fmt: skip


def refitted(
    truths: Mapping[str, Truth], scores: Mapping[str, Mapping[str, Array]]
) -> dict[str, dict[str, Array]]:
    """The predicted gain of a model that is fitted on the other settings."""
    table = pd.concat(
        pd.DataFrame(
            {
                "setting": setting,
                # The base's accuracy is the same for all heads: only the intercept depends on it.
                "advantage": scores["head_minus_base"][setting].mean(axis=1),
                "discrepancy": scores["cka"][setting].mean(axis=1),
                "gain": truth.gain_H,
            }
        )
        for setting, truth in truths.items()
    )
    found = {}
    for setting in truths:
        model = least_squares(table[table["setting"] != setting])
        advantage_HZ, discrepancy_HZ = (
            scores[name][setting] for name in ("head_minus_base", "cka")
        )
        found[setting] = np.vectorize(model.predict)(advantage_HZ, discrepancy_HZ)
    return {"predicted_gain_refitted": found}


def choice(truths: Mapping[str, Truth], scores: Mapping[str, Mapping[str, Array]]) -> pd.DataFrame:
    """For each setting, the score with the largest mean τ in the others, and its τ there."""
    taus = pd.DataFrame(
        {
            name: {setting: tau_of(truth, each[setting]) for setting, truth in truths.items()}
            for name, each in scores.items()
        }
    )
    rows = []
    for setting in truths:
        chosen = str(taus.drop(index=setting).mean().idxmax())
        rows.append(
            {
                "left_out": setting,
                "chosen": chosen,
                "tau": taus.loc[setting, chosen],
                f"tau_{PRIMARY}": taus.loc[setting, PRIMARY],
            }
        )
    return pd.DataFrame(rows)


def verdict(summary: pd.DataFrame) -> str:
    """The primary result in a sentence."""
    row = summary[(summary["score"] == PRIMARY) & (summary["coupling"] == "observe")].iloc[0]
    passed = row["low"] > LEAST
    return (
        f"Primary: mean τ of {PRIMARY} {row['tau']:.2f} ({row['low']:.2f} to {row['high']:.2f}); "
        f"the lower bound is {'above' if passed else 'not above'} {LEAST:.2f}: "
        f"{'success' if passed else 'no success'}"
    )


if __name__ == "__main__":
    main()
