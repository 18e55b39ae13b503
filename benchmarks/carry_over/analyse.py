"""Analyses the carry-over benchmark as PROTOCOL.md says, once all runs are in.

    python benchmarks/carry_over/analyse.py --out results/carry_over

Reads `solo.csv` and `searches.csv`. While runs are missing, it says which, and the reliability of
the gains so far, which is computed without any score. With all runs in, it writes

- `tau.csv`: how well each score ranks the gains of each setting;
- `summary.csv`: each score over all settings, with the interval of its mean τ;
- `rungs.csv`: the mean τ of each score at each rung, and the cost of a search up to there;
- `choice.csv`: for each setting, the score that the other six would choose, and its τ there.

Shapes: H heads, S seeds of solo runs, Z seeds of searches, R resamples.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from run import LAST_RUNG, heads_of
from settings import NONE, PROTOCOL, SEEDS, SETTINGS

from headsearch.report.statistics.calibration import ceiling, reliability
from headsearch.report.statistics.rank_correlation import tau_b
from headsearch.report.statistics.score_columns import (
    collapsed_last,
    scores_from,
    with_last_absorption,
)
from headsearch.runs.published_gains import least_squares, static_prior
from headsearch.runs.tables import write_table

Array = npt.NDArray[np.float64]

PRIMARY = "head_accuracy"
LEAST = 0.30
"""The lower bound of the primary result must exceed it."""
RESAMPLES = 10_000
INFORMATIVE = 0.5
"""A setting whose gains are less reliable is uninformative."""
TOP = 3
RANDOM_ORDERS = 1000


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
    }


FREE = ("static_prior", "params_m", "gflops")
"""Scores that need no search."""


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


def tau_of(truth: Truth, score_HZ: Array) -> float:
    """The mean τ of searches with one seed; 0 for a score that is the same for all heads."""
    taus = [tau_b(score_H, truth.gain_H) for score_H in score_HZ.T]
    return float(np.mean([0.0 if math.isnan(tau) else tau for tau in taus]))


def per_setting(
    truths: Mapping[str, Truth], scores: Mapping[str, Array]
) -> Iterable[dict[str, object]]:
    """Rows of tau.csv: τ in each setting, with an interval over heads."""
    for setting, truth in truths.items():
        found = reliability(truth.gain_HS)
        low, high = _middle(resampled({setting: truth}, scores))
        yield {
            "setting": setting,
            "tau": tau_of(truth, scores[setting]),
            "low": low,
            "high": high,
            "ceiling": ceiling(found),
            "reliability": found,
        }


def interval_of_mean(truths: Mapping[str, Truth], scores: Mapping[str, Array]) -> dict[str, float]:
    """The mean τ over settings and its interval, by the two-way bootstrap."""
    low, high = _middle(resampled(truths, scores))
    mean = float(np.mean([tau_of(truth, scores[name]) for name, truth in truths.items()]))
    return {"tau": mean, "low": low, "high": high}


def over_settings(truths: Mapping[str, Truth], scores: Mapping[str, Array]) -> dict[str, float]:
    """A row of summary.csv."""
    informative = {
        name: truth for name, truth in truths.items() if reliability(truth.gain_HS) >= INFORMATIVE
    }
    pairs = [
        (truth.gain_H, score_H) for name, truth in truths.items() for score_H in scores[name].T
    ]
    taus = {name: tau_of(truth, scores[name]) for name, truth in truths.items()}
    ceilings = {name: ceiling(reliability(truth.gain_HS)) for name, truth in truths.items()}
    return {
        **interval_of_mean(truths, scores),
        **{
            f"{key}_informative": value
            for key, value in (interval_of_mean(informative, scores) if informative else {}).items()
        },
        "tau_over_ceiling": float(np.mean([taus[name] / ceilings[name] for name in informative])),
        "regret_1": float(np.mean([regret(*pair, first=1) for pair in pairs])),
        "regret_3": float(np.mean([regret(*pair, first=TOP) for pair in pairs])),
        "top_3": float(np.mean([regret(*pair, first=TOP) == 0 for pair in pairs])),
        "sign": float(np.mean([np.mean((score > 0) == (gain > 0)) for gain, score in pairs])),
    }


def random_order(truths: Mapping[str, Truth]) -> dict[str, float]:
    """A row of summary.csv for random orders of the heads.

    The interval is that of the mean τ over settings of one random order a search seed, not of its
    expectation, which is 0.
    """
    rng = np.random.default_rng(0)
    drawn = {
        name: rng.normal(size=(len(truth.heads), len(SEEDS) * RANDOM_ORDERS))
        for name, truth in truths.items()
    }
    means = [
        np.mean([
            tau_of(truth, drawn[name][:, len(SEEDS) * i : len(SEEDS) * (i + 1)])
            for name, truth in truths.items()
        ])
        for i in range(RANDOM_ORDERS)
    ]  # fmt: skip
    pairs = [(truth.gain_H, order) for name, truth in truths.items() for order in drawn[name].T]
    low, high = _middle(np.array(means))
    return {
        "tau": float(np.mean(means)),
        "low": low,
        "high": high,
        "regret_1": float(np.mean([regret(*pair, first=1) for pair in pairs])),
        "regret_3": float(np.mean([regret(*pair, first=TOP) for pair in pairs])),
        "top_3": float(np.mean([regret(*pair, first=TOP) == 0 for pair in pairs])),
    }


def regret(gain_H: Array, score_H: Array, first: int) -> float:
    """The best gain minus the best of the heads that the score ranks first, in points."""
    ranked = np.argsort(-score_H, kind="stable")[:first]
    return 100 * float(gain_H.max() - gain_H[ranked].max())


def resampled(truths: Mapping[str, Truth], scores: Mapping[str, Array]) -> Array:
    """The mean τ of each resample of settings and heads: (R,).

    A head that is drawn c times counts c times, but is not compared with itself; the same heads are
    drawn in all settings.
    """
    rng = np.random.default_rng(0)
    settings = list(truths)
    heads = len(next(iter(truths.values())).heads)
    counts_RH = rng.multinomial(heads, np.full(heads, 1 / heads), size=RESAMPLES).astype(float)
    taus_RT = np.stack(
        [_weighted_tau(truths[name].gain_H, scores[name], counts_RH) for name in settings], axis=1
    )
    drawn_RT = rng.integers(len(settings), size=(RESAMPLES, len(settings)))
    return np.nanmean(np.take_along_axis(taus_RT, drawn_RT, axis=1), axis=1)


def _weighted_tau(gain_H: Array, score_HZ: Array, counts_RH: Array) -> Array:
    """τ-b over pairs of different heads, for each resample: (R,), the mean over searches."""
    y_HH = np.sign(gain_H[:, None] - gain_H[None, :])

    def total(pairs_HH: Array) -> Array:
        return np.einsum("ri,ij,rj->r", counts_RH, pairs_HH, counts_RH, optimize=True)

    taus = []
    for score_H in score_HZ.T:
        x_HH = np.sign(score_H[:, None] - score_H[None, :])
        untied = np.sqrt(total(np.abs(x_HH)) * total(np.abs(y_HH)))
        with np.errstate(invalid="ignore"):
            taus.append(np.where(untied > 0, total(x_HH * y_HH) / untied, 0.0))
    return np.mean(taus, axis=0)


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


def _middle(values: Array) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
