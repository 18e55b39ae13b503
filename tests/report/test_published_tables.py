"""The scripts make the published tables from the published runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd

from headsearch.runs import published_gains

ROOT = Path(__file__).parents[2]
RUNS = ("ground_truth.csv", "searches/costs.csv", "searches/observe.csv")
TABLES = ("search_scores.csv", "calibration.csv", "with_controls.csv", "gains.csv", "stops.csv")
"""All but `variants.csv` and `end_to_end.csv`, which need the other searches."""


def run(script: str, *arguments: str | Path) -> None:
    subprocess.run(
        [sys.executable, ROOT / "benchmarks" / script, *arguments], cwd=ROOT, check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


def same(made: Path, published: Path) -> None:
    """Up to the last of six digits, which may depend on the processor."""
    pd.testing.assert_frame_equal(pd.read_csv(made), pd.read_csv(published), rtol=1e-4)


def test_calibration(tmp_path: Path) -> None:
    published = ROOT / "results" / "cifar10"
    (tmp_path / "searches").mkdir()
    for name in RUNS:
        shutil.copy(published / name, tmp_path / name)
    run("calibration.py", "--out", tmp_path)
    for name in TABLES:
        same(tmp_path / name, published / name)


def test_published_gains(tmp_path: Path) -> None:
    made = tmp_path / "gains.csv"
    run("published_gains.py", "--results", ROOT / "results", "--table", made)
    same(made, published_gains.TABLE)
