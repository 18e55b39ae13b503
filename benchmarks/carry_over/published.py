"""The rows that this benchmark adds to the package's table of published gains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from run import LAST_RUNG, heads_of
from settings import COMMON, NONE, SETTINGS, Setting
from tables import missing_runs, read_tables

from headsearch.models.candidates import plan_named, shape_for

HALVES = ("base_knn", "base_linear", "choose_knn", "choose_linear")
"""Accuracies of the base on both halves of the evaluation images."""
DATA = {"cifar10": "CIFAR-10", "tiny_imagenet": "Tiny ImageNet"}


def published_rows(out: Path) -> pd.DataFrame:
    """A row for each setting and head, as in `published_gains.csv`; none while runs are missing.

    Args:
        out: the folder with solo.csv and searches.csv.
    """
    solo, searches = read_tables(out)
    if missing_runs(solo, searches, {name: heads_of(name) for name in SETTINGS}):
        return pd.DataFrame()
    return pd.concat(
        [
            rows_of(
                setting,
                solo[solo["setting"] == name],
                searches[(searches["setting"] == name) & (searches["coupling"] == "observe")],
            )
            for name, setting in SETTINGS.items()
        ]
    )


def rows_of(setting: Setting, solo: pd.DataFrame, searches: pd.DataFrame) -> pd.DataFrame:
    """The rows of one setting; a head has no scores where a search set it aside.

    Args:
        setting: the setting.
        solo: its rows of solo.csv.
        searches: its rows of searches.csv, of searches with observing heads.
    """
    accuracy = solo.groupby("candidate")[list(HALVES)].mean().mean(axis=1, skipna=False)
    families = searches.groupby("candidate")["family"].first()
    last = searches[searches["rung"] == LAST_RUNG["observe"]]
    last = last.assign(advantage=last["choose_linear"] - last["base_choose_linear"])
    scores = last.groupby("candidate")[["advantage", "cka"]].mean().reindex(families.index)
    return pd.DataFrame(
        {
            **described(setting),
            "candidate": families.index,
            "family": families.to_numpy(),
            "advantage": scores["advantage"].to_numpy(),
            "discrepancy": scores["cka"].to_numpy(),
            "gain": (accuracy - accuracy[NONE]).reindex(families.index).to_numpy(),
        }
    )


def described(setting: Setting) -> dict[str, Any]:
    """What describes a setting in the table."""
    settings = {**COMMON, **setting.settings}
    plan = plan_named(
        settings["base"], shape_for(settings["base"], settings["image_size"], None),
        patch_size=settings.get("patch_size"), base_args=settings.get("base_args"),
    )  # fmt: skip
    return {
        "setting": setting.name,
        "base": settings["base"],
        "objective": settings["objective"],
        "data": DATA[setting.data],
        "width": plan.dim,
        "tokens": plan.grid[0] * plan.grid[1],
        "images": settings["images"],
        "steps": settings["epochs"] * (settings["images"] // settings["batch_size"]),
    }
