"""The tables of the carry-over benchmark, checked: gains of solo runs, and scores of searches.

Shapes: H heads, S seeds of solo runs, Z seeds of searches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from run import LAST_RUNG
from settings import NONE, PROTOCOL, SEEDS

from headsearch.report.statistics.score_columns import (
    collapsed_last,
    scores_from,
    with_last_absorption,
)

Array = npt.NDArray[np.float64]


class Refused(SystemExit):
    """A table that cannot be analysed."""


@dataclass(frozen=True)
class Truth:
    """The gains of one setting.

    Attributes:
        heads: the candidates, sorted.
        gain_HS: on the reporting half of the labels, by seed.
    """

    heads: tuple[str, ...]
    gain_HS: Array

    @property
    def gain_H(self) -> Array:
        return self.gain_HS.mean(axis=1)


def read_tables(out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """solo.csv and searches.csv, checked."""
    solo = read_checked(out / "solo.csv", ["setting", "candidate", "seed"])
    searches = read_checked(out / "searches.csv", ["setting", "coupling", "seed", "rung",
                                                   "candidate"])  # fmt: skip
    return solo, searches


def read_checked(path: Path, key: list[str]) -> pd.DataFrame:
    """A table of the benchmark.

    Args:
        path: of the file.
        key: the columns that tell its rows apart.

    Raises:
        Refused: a row is cut short, doubled, or of another protocol.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise Refused(f"{path}: {error}") from None
    absent = [name for name in ("protocol", *key) if name not in table]
    if absent:
        raise Refused(f"{path}: no column {absent[0]}")
    cut = table[table[["protocol", *key, "wall_s"]].isna().any(axis=1)]
    if len(cut):
        raise Refused(f"{path}, line {cut.index[0] + 2}: the row is cut short")
    doubled = table[table.duplicated(key)]
    if len(doubled):
        named = ", ".join(str(value) for value in doubled.iloc[0][key])
        raise Refused(f"{path}, line {doubled.index[0] + 2}: a second row of {named}")
    other = table[table["protocol"] != PROTOCOL]
    if len(other):
        raise Refused(
            f"{path}, line {other.index[0] + 2}: protocol {other.iloc[0]['protocol']}, but this "
            f"is {PROTOCOL}"
        )
    return table


def missing_runs(
    solo: pd.DataFrame, searches: pd.DataFrame, expected: Mapping[str, Iterable[str]]
) -> set[tuple[str, str, int]]:
    """The runs (setting, candidate or coupling, seed) without a row."""
    wanted = {
        (setting, what, seed)
        for setting, heads in expected.items()
        for what in (NONE, *heads, *LAST_RUNG)
        for seed in SEEDS
    }
    there = {
        *zip(solo["setting"], solo["candidate"], solo["seed"], strict=True),
        *zip(searches["setting"], searches["coupling"], searches["seed"], strict=True),
    }
    return wanted - there


def truth_of(solo: pd.DataFrame) -> Truth:
    """The gains of one setting, from its solo runs."""
    accuracy = solo.assign(accuracy=solo[["base_knn", "base_linear"]].mean(axis=1))
    wide = accuracy.pivot_table(index="candidate", columns="seed", values="accuracy", dropna=False)
    # A head that diverged has the lowest gain: below the lowest of the same seed.
    wide = wide.fillna(wide.min() - 1e-3)
    gains = wide.drop(index=NONE) - wide.loc[NONE]
    gains = gains.sort_index()
    return Truth(tuple(gains.index), gains.to_numpy())


def scores_at(
    searches: pd.DataFrame, truths: Mapping[str, Truth], coupling: str, rung: int
) -> dict[str, dict[str, Array]]:
    """Every score at a rung: by score and setting, (H, Z). Scores with gaps are left out."""
    found: dict[str, dict[str, Array]] = {}
    for setting, truth in truths.items():
        rows = searches[
            (searches["setting"] == setting)
            & (searches["coupling"] == coupling)
            & (searches["rung"] <= rung)
        ]
        rows = with_last_absorption(rows).sort_values("rung", kind="stable")
        scores = collapsed_last(scores_from(rows[rows["rung"] == rung]), rows)
        for name in scores.columns.drop(["candidate", "seed"]):
            wide = scores.pivot_table(index="candidate", columns="seed", values=name, dropna=False)
            grid = wide.reindex(truth.heads).to_numpy(dtype=float)
            if np.isfinite(grid).all():
                found.setdefault(name, {})[setting] = grid
    found.pop("static_prior", None)  # made from other settings here, not from the published table
    return {name: each for name, each in found.items() if len(each) == len(truths)}
