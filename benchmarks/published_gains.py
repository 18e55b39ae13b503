"""Writes `headsearch/runs/published_gains.csv` from the tables of the ground truth.

    python benchmarks/published_gains.py --results results

The table is part of the package: predicted gains and the static prior are made from it. It holds
the heads of `cifar10/ground_truth.csv` and those of the settings of `carry_over/`, once all of its
runs are in, with their scores in searches with observing heads, means over seeds. A head that a
search set aside has no scores: it is in the table for the prior alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.append(str(Path(__file__).parent / "carry_over"))

from calibration import DEFAULT, NONE, read_solo
from ground_truth import BASE, TRAINING
from published import published_rows

from headsearch.runs.published_gains import TABLE, fit
from headsearch.runs.tables import write_table

SETTING = {
    "setting": "cifar10-vit-simclr",
    "base": BASE["base"],
    "objective": TRAINING["objective"],
    "data": "CIFAR-10",
    "width": 96,
    "tokens": 16,
    "images": TRAINING["images"],
    "steps": 936,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--table", type=Path, default=TABLE, help="the file to write")
    arguments = parser.parse_args()
    results = arguments.results
    table = pd.concat([discovery(results / "cifar10"), published_rows(results / "carry_over")])
    write_table(arguments.table, table)
    print(table.round(4).to_string(index=False))
    scored = table.dropna()
    fitted = fit(scored)
    print(fitted)
    print(
        f"R² of heads of families left out: {1 - fitted.error**2 / scored['gain'].var(ddof=0):.2f}"
    )
    print(f"by linear accuracy alone: {r_squared(scored, None):.2f}")
    print(f"with the threshold fixed at 0.02 beforehand: {r_squared(scored, 0.02):.2f}")


def r_squared(table: pd.DataFrame, threshold: float | None) -> float:
    """R² of heads of families left out, by linear accuracy and a fixed threshold, if any."""
    design = np.column_stack([np.ones(len(table)), table["advantage"]])
    if threshold is not None:
        design = np.column_stack([design, table["discrepancy"] > threshold])
    gain, family = table["gain"].to_numpy(), table["family"].to_numpy()
    squares = 0.0
    for left_out in np.unique(family):
        of_family = family == left_out
        coefficients = np.linalg.lstsq(design[~of_family], gain[~of_family], rcond=None)[0]
        squares += float(((gain[of_family] - design[of_family] @ coefficients) ** 2).sum())
    return 1 - squares / (len(gain) * float(gain.var()))


def discovery(folder: Path) -> pd.DataFrame:
    """The setting on which the defaults were chosen."""
    solo = read_solo(folder)
    accuracy = solo.groupby("candidate")["accuracy_of_both"].mean()
    families = solo.drop_duplicates("candidate").set_index("candidate")["family"]
    scores = pd.read_csv(folder / "searches" / f"{DEFAULT}.csv")
    last = scores[scores["rung"] == scores["rung"].max()]
    last = last.assign(advantage=last["choose_linear"] - last["base_choose_linear"])
    means = last.groupby("candidate")[["advantage", "discrepancy"]].mean()
    rows: list[dict[str, Any]] = [
        {
            **SETTING,
            "candidate": name,
            "family": families[name],
            "advantage": means["advantage"].get(name),
            "discrepancy": means["discrepancy"].get(name),
            "gain": accuracy[name] - accuracy[NONE],
        }
        for name in families.index
        if name != NONE
    ]
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
