"""Runs the carry-over benchmark: solo runs and searches of all settings (PROTOCOL.md).

    python benchmarks/carry_over/run.py --data DATA --out results/carry_over --jobs 2

DATA is a folder with `cifar10/` and `tiny_imagenet/`, each with train.tar and val.tar. Writes
`solo.csv`, a row for each solo run as it ends, and `searches.csv`, a row for each head and rung of
a search as it ends. Started again, it continues with what is missing. The pilots come first: the
runs without a head, under both seeds. A setting whose objective does not lift the base is left out.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

sys.path.append(str(Path(__file__).parents[1]))

from in_processes import in_processes
from settings import COMMON, NONE, PROTOCOL, RUNGS, SEEDS, SETTINGS, SPACE
from tars import make_tars

import headsearch
from headsearch.config.settings import resolve
from headsearch.errors import UserError
from headsearch.runs.tables import write_table
from headsearch.study.events import Event, Scored
from headsearch.study.search import Search
from headsearch.study.setup import prepare

LAST_RUNG = {"observe": RUNGS, "joint": 2}
"""The rung after which a search is stopped, by coupling."""
ERRORS = 3
"""The pilots must lift the base by this many standard errors."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2, help="processes at once, a thread each")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "carry-over")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    tars = {
        name: make_tars(arguments.data / name, arguments.cache)
        for name in {SETTINGS[setting].data for setting in arguments.settings}
    }
    table, searches = arguments.out / "solo.csv", arguments.out / "searches.csv"

    def run(tasks: list[tuple[str, str, int]]) -> None:
        """Runs what is missing of (setting, head or coupling, seed), and writes its rows."""
        done = {*_done(table, "candidate"), *_done(searches, "coupling")}
        missing = [task for task in tasks if task not in done]
        for (setting, what, seed), rows in in_processes(one, missing, tars, jobs=arguments.jobs):
            path = searches if what in LAST_RUNG else table
            known = pd.read_csv(path) if path.exists() else pd.DataFrame()
            write_table(path, pd.concat([known, pd.DataFrame(rows)], ignore_index=True))
            print(f"{setting} {what} seed {seed}: {rows[-1]['wall_s']:.0f} s", flush=True)

    run([(setting, NONE, seed) for setting in arguments.settings for seed in SEEDS])
    lifted = [name for name in arguments.settings if _lifted(name, pd.read_csv(table))]
    run(
        [
            (setting, what, seed)
            for setting in lifted
            for seed in SEEDS
            for what in (*heads_of(setting), *LAST_RUNG)
        ]
    )


def heads_of(setting: str) -> list[str]:
    """The heads of a setting, `own` first."""
    base = SETTINGS[setting].settings
    named = {name: base[name] for name in ("base_args", "patch_size", "image_size") if name in base}
    return list(headsearch.candidates(SPACE, base["base"], **named)["candidate"])


def one(
    setting: str, what: str, seed: int, tars: dict[str, tuple[Path, Path]]
) -> list[dict[str, Any]]:
    """The rows of one solo run or of one search.

    Args:
        setting: its name.
        what: a head, `none`, or the coupling of a search.
        seed: the seed.
        tars: training and evaluation images by data set.
    """
    train, evaluation = tars[SETTINGS[setting].data]
    settings = {
        **COMMON,
        **SETTINGS[setting].settings,
        "data": str(train),
        "eval_data": str(evaluation),
        "seed": seed,
    }
    began = time.monotonic()
    rows = search(what, settings) if what in LAST_RUNG else [solo(what, settings)]
    about = {"protocol": PROTOCOL, "setting": setting, "seed": seed}
    return [{**about, **row, "wall_s": round(time.monotonic() - began)} for row in rows]


def solo(head: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The accuracies of the base before and after a solo run; NaN if the head diverged."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            scores = headsearch.pretrain(
                head=head, rungs=1, out=Path(folder) / "run", progress=False, **settings
            ).scores
        except UserError as error:
            if "diverged" not in str(error):
                raise
            return {"candidate": head, "ended": "diverged"}
    first, last = scores.iloc[0], scores.iloc[-1]
    columns = ("base_knn", "base_linear", "choose_knn", "choose_linear", "head_knn",
               "head_linear", "discrepancy", "effective_rank", "step")  # fmt: skip
    return {
        "candidate": head,
        "ended": "complete",
        **{name: last[name] for name in columns},
        "untrained_knn": first["base_knn"],
        "untrained_linear": first["base_linear"],
        "untrained_choose_knn": first["choose_knn"],
        "untrained_choose_linear": first["choose_linear"],
    }


def search(coupling: str, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The scores of every head at every rung of a search without pruning."""
    with tempfile.TemporaryDirectory() as folder:
        found = Search(
            prepare(
                resolve(
                    {
                        **settings, "space": str(SPACE), "coupling": coupling, "rungs": RUNGS,
                        "pruner": "none", "trials": 64, "cohort": 64, "out": Path(folder) / "run",
                    }
                )
            )
        )  # fmt: skip
        costs: dict[int, float] = {}

        def observe(event: Event) -> None:
            if isinstance(event, Scored):
                costs[event.rung] = found.state.facts["cost_base_equivalents"]
                if event.rung == LAST_RUNG[coupling]:
                    found.stop.set()

        found.run(observe)
        board = found.state.leaderboard
        about = {
            name: {
                "family": entry.candidate.family,
                "state": entry.state,
                "reason": entry.reason,
                "params_m": entry.candidate.params_m,
                "gflops": entry.candidate.gflops,
            }
            for name, entry in board.entries.items()
        }
        return [
            {
                "coupling": coupling,
                **{key: value for key, value in row.items() if key != "seed"},
                **about[row["candidate"]],
                "cost": costs[row["rung"]],
            }
            for row in board.score_rows
        ]


def _lifted(setting: str, table: pd.DataFrame) -> bool:
    """Whether the pilots lift the base above its untrained self by `ERRORS` standard errors."""
    rows = table[(table["setting"] == setting) & (table["candidate"] == NONE)]
    after = rows[["base_knn", "base_linear", "choose_knn", "choose_linear"]].mean().mean()
    before = rows[["untrained_knn", "untrained_linear", "untrained_choose_knn",
                   "untrained_choose_linear"]].mean().mean()  # fmt: skip
    images = COMMON["eval_images"]
    error = math.sqrt((after * (1 - after) + before * (1 - before)) / images)
    lifted = bool(after - before > ERRORS * error)
    print(
        f"{setting}: untrained {100 * before:.1f}%, pretrained {100 * after:.1f}%, "
        f"{(after - before) / error:.1f} standard errors{'' if lifted else ': left out'}",
        flush=True,
    )
    return lifted


def _done(path: Path, column: str) -> set[tuple[str, str, int]]:
    """What the table has already."""
    if not path.exists():
        return set()
    table = pd.read_csv(path)
    other = set(table["protocol"]) - {PROTOCOL}
    if other:
        raise SystemExit(f"{path}: rows of protocol {min(other)}, but this is {PROTOCOL}")
    return set(zip(table["setting"], table[column], table["seed"], strict=True))


if __name__ == "__main__":
    main()
