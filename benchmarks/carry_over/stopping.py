"""What a search keeps that stops where the order of its heads has settled (PROTOCOL.md)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from agreement import PRIMARY, middle, resampled, tau_of
from run import LAST_RUNG
from settings import COMMON, SEEDS
from settled import base_accuracies, settled_rung
from tables import Array, Truth, scores_at

KEPT = 0.95
"""The share of τ that stopping early has to keep."""


def at_stops(
    truths: Mapping[str, Truth], searches: pd.DataFrame
) -> tuple[dict[str, list[int]], dict[str, Array], dict[str, Array]]:
    """By setting: the rung at which each search has settled, its scores there and at the last rung.

    Returns:
        Z rungs, and (H, Z) scores twice, of `PRIMARY` in `observe`.
    """
    rungs, stopped, last = {}, {}, {}
    by_rung = [
        scores_at(searches, truths, "observe", rung)[PRIMARY]
        for rung in range(1, LAST_RUNG["observe"] + 1)
    ]
    for setting in truths:
        score_RHZ = np.stack([scores[setting] for scores in by_rung])
        of_setting = searches[
            (searches["setting"] == setting) & (searches["coupling"] == "observe")
        ]
        rungs[setting] = [
            settled_rung(score_RH, base_accuracies(search), COMMON["eval_images"] // 2)
            for score_RH, (_, search) in zip(
                np.moveaxis(score_RHZ, 2, 0), of_setting.groupby("seed"), strict=True
            )
        ]
        stopped[setting] = np.stack(
            [score_RHZ[rung - 1, :, search] for search, rung in enumerate(rungs[setting])], axis=1
        )
        last[setting] = score_RHZ[-1]
    return rungs, stopped, last


def stops(truths: Mapping[str, Truth], searches: pd.DataFrame) -> pd.DataFrame:
    """The table stops.csv."""
    rungs, stopped, last = at_stops(truths, searches)
    costs = searches[searches["coupling"] == "observe"].groupby(["setting", "seed", "rung"])
    cost = costs["cost"].first()
    return pd.DataFrame(
        {
            "setting": setting,
            "seed": seed,
            "rung": rung,
            "tau": tau_of(truth, stopped[setting][:, [search]]),
            "tau_last": tau_of(truth, last[setting][:, [search]]),
            "cost": cost[setting, seed, rung],
            "cost_last": cost[setting, seed, LAST_RUNG["observe"]],
        }
        for setting, truth in truths.items()
        for search, (seed, rung) in enumerate(zip(SEEDS, rungs[setting], strict=True))
    )


def verdict_on_stopping(truths: Mapping[str, Truth], searches: pd.DataFrame) -> str:
    """What stopping early keeps of τ, in a sentence; both are of the same resamples."""
    _, stopped, last = at_stops(truths, searches)
    table = stops(truths, searches)
    kept = table["tau"].mean() / table["tau_last"].mean()
    low, high = middle(resampled(truths, stopped) / resampled(truths, last))
    borne_out = kept >= KEPT
    return (
        f"Stopping when the order has settled: {kept:.2f} of τ ({low:.2f} to {high:.2f}) at "
        f"{table['cost'].mean() / table['cost_last'].mean():.2f} of the cost; "
        f"{'at least' if borne_out else 'less than'} {KEPT}: "
        f"{'borne out' if borne_out else 'not borne out'}"
    )
