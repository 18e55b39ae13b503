"""Tiny searches for many workers: a ViT of width 64, seven heads in four cohorts."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import torch

from headsearch.cluster.collect import collect
from headsearch.cluster.engine.claims import Rules
from headsearch.cluster.shared_study import open_study, prepare_as_submitted, submit
from headsearch.cluster.worker import WEIGHTS_FOLDER, Worker
from headsearch.config.settings import resolve
from headsearch.runs.run import read_run
from headsearch.study.search import Search
from headsearch.study.setup import SearchSetup, prepare
from helpers.stepwise import stepwise

SPACE = """
families:
  attention: {depth: 1}
  convnext: {depth: 1, kernel: 3, first_shortcut: [true, false]}
  poolformer: {depth: 1}
  mixer: {depth: [1, 2]}
controls:
  identity:
"""
SAMPLED = """
families:
  convnext: {depth: {low: 1, high: 2}, kernel: [3, 5, 7], mlp_ratio: {low: 1.0, high: 2.0}}
  poolformer: {depth: {low: 1, high: 3}}
controls:
  identity:
"""
PATIENT = Rules(heartbeat=0.5, grace=4)


def settings(folder: Path, space: str = SPACE, **changes: Any) -> dict[str, Any]:
    file = folder / "space.yaml"
    file.write_text(space)
    return {
        "base": "test_vit", "space": str(file), "image_size": 16, "patch_size": 4, "images": 64,
        "epochs": 3, "batch_size": 16, "rungs": 3, "eval_images": 64, "bank_images": 64,
        "min_keep": 1, "cohort": 2, "device": "cpu", "precision": "float32", "threads": 1,
        "coupling": "joint", **changes,
    }  # fmt: skip


def submitted(
    folder: Path, url: str, rules: Rules = PATIENT, name: str = "heads", **changes: Any
) -> SearchSetup:
    """Writes a study; what it was prepared from."""
    prepared = prepare(resolve(settings(folder, **changes)))
    submit(prepared, name, url, str(folder / "shared"), rules)
    return prepared


def new_worker(folder: Path, url: str, name: str, of: str = "heads") -> Worker:
    out = folder / name
    study = open_study(url, of)
    own = {"device": "cpu", "threads": 1}
    return Worker(study, prepare_as_submitted(study, own, out / WEIGHTS_FOLDER), out, name)


def start_worker(folder: Path, url: str, name: str) -> ForkProcess:
    """A worker in a process of its own: forked, so that nothing is imported anew."""

    def work() -> None:
        torch.set_num_threads(1)
        with (folder / f"{name}.log").open("w", buffering=1) as log:
            for line in stepwise(new_worker(folder, url, name).run):
                log.write(f"{line}\n")

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def collected(folder: Path, url: str, name: str = "collected", study: str = "heads") -> Path:
    return collect(open_study(url, study), folder / name)[0].path


def searched(folder: Path, **changes: Any) -> Path:
    """The run directory of the same search by one process."""
    search = Search(prepare(resolve(settings(folder, out=folder / "run", **changes))))
    search.run()
    return search.run_directory


def same(first: Path, second: Path) -> None:
    """Byte for byte, but for how long a head's step took."""
    for name in ("rungs.csv", "scores.csv"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    tables = [pd.read_csv(run / "ranking.csv", dtype=str) for run in (first, second)]
    pd.testing.assert_frame_equal(*(table.drop(columns="step_ms") for table in tables))
    assert trials_of(first) == trials_of(second)


def trials_of(run: Path) -> list[Mapping[str, Any]]:
    """What the study of a run directory holds of its candidates."""
    study = optuna.load_study(
        study_name=str(read_run(run).config["study_name"]),
        storage=f"sqlite:///{run / 'study.db'}",
    )
    return [
        {
            "state": trial.state,
            "params": trial.params,
            "values": trial.values,
            "rungs": trial.intermediate_values,
            "attrs": trial.user_attrs,
        }
        for trial in study.trials
    ]
