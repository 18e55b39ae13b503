"""Made-up runs for the tests of ranking and report: plausible figures, every state of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from headsearch.runs.run import Run
from headsearch.runs.tables import RANKING_COLUMNS, RUNG_COLUMNS, SCORE_COLUMNS, rank

HEADS = {
    # candidate: (family, discrepancy, k-NN accuracy) where it would end after all rungs
    "convnext-d3-k7-noshortcut": ("convnext", 0.262, 0.391),
    "convnext-d3-k7": ("convnext", 0.171, 0.372),
    "mixer-d2-r4": ("mixer", 0.214, 0.377),
    "swin-d2-w4": ("swin", 0.188, 0.384),
    "resmlp-d3": ("resmlp", 0.149, 0.360),
    "poolformer-d3-k3": ("poolformer", 0.118, 0.352),
    "bottleneck-d2-k3": ("bottleneck", 0.292, 0.355),
    "gmlp-d2": ("gmlp", 0.132, 0.366),
    "attention-d2": ("attention", 0.061, 0.350),
    "attention-d1-noshortcut": ("attention", 0.092, 0.345),
    "own-d2": ("own", 0.043, 0.343),
    "identity": ("identity", 0.0, 0.341),
}
RUNGS = 4
STEPS = 96


def facts(**changes: Any) -> dict[str, Any]:
    base = {
        "status": "complete",
        "started": "2026-01-12T09:30:00",
        "wall_s": 292.4,
        "score_s": 41.2,
        "base": {"name": "vit_s", "timm_name": "vit_small_patch16_224", "dim": 384,
                 "grid": [4, 4], "params_m": 21.4, "gflops": 0.35},
        "device": "cpu", "precision": "float32", "threads": 2, "images": 1024,
        "eval": {"bank": 1000, "choose": 600, "report": 600, "probe": 600, "classes": 10},
        "labelled": True,
        "baselines": {"raw_knn": 0.248, "raw_linear": 0.271, "untrained_knn": 0.262,
                      "untrained_linear": 0.301, "base_knn": 0.342, "base_linear": 0.377},
        "images_per_second": 61.3, "rung_count": RUNGS, "steps": STEPS,
        "cost_base_equivalents": 1.9, "solo_equivalents": 13.4, "dominant_share": 0.31,
        "space_size": 31, "excluded": 2,
    }  # fmt: skip
    return base | changes


def config(**changes: Any) -> dict[str, Any]:
    base = {"base": "vit_s", "space": "heads.yaml", "data": "scenes", "objective": "simclr",
            "coupling": "joint", "budget": "quick", "images": 1024, "epochs": 2, "batch_size": 64,
            "rungs": RUNGS, "cohort": 16, "pruner": "rung", "eta": 2.0, "min_keep": 3,
            "sampler": "tpe", "rank_by": "balanced", "discrepancy": "cka", "seed": 0,
            "versions": {"headsearch": "0.1.0", "torch": "2.6.0"}}  # fmt: skip
    return base | changes


def run(
    path: Path,
    *,
    last: int = RUNGS,
    labelled: bool = True,
    states: dict[str, tuple[str, int, str]] | None = None,
    heads: dict[str, tuple[str, float, float]] | None = None,
    config_changes: dict[str, Any] | None = None,
    seeds: int = 1,
    **fact_changes: Any,
) -> Run:
    """A run scored up to rung `last`; −1 for none.

    Args:
        states: candidate → (state, last rung, reason) where a head ends as it would not otherwise.
        heads: candidate → (family, discrepancy, accuracy), instead of HEADS.
        seeds: how many seeds the scores are means of.
    """
    heads = HEADS if heads is None else heads
    ends = _ends(heads, last) | (states or {})
    rng = np.random.default_rng(0)
    rungs, rows = [], []
    for name, (family, discrepancy, accuracy) in heads.items():
        state, stop, reason = ends[name]
        drift = rng.normal(size=(RUNGS + 1, 2))
        for rung in range(min(stop, last) + 1):
            way = rung / RUNGS
            growth = 0.45 + 0.55 * way**0.6
            noise = (1 - way) * np.array([0.04, 0.004]) * drift[rung]
            knn = 0.255 + (accuracy - 0.255) * way**0.7 + noise[1]
            rungs.append(
                {
                    "candidate": name,
                    "cohort": 0,
                    "rung": rung,
                    "step": STEPS * rung // RUNGS,
                    "images": 64 * STEPS * rung // RUNGS,
                    "discrepancy": discrepancy * (growth + noise[0]),
                    "head_knn": knn if labelled else np.nan,
                    "head_linear": 0.29 + (accuracy - 0.26) * way**0.7 if labelled else np.nan,
                    "base_knn": 0.262 + 0.08 * way**0.7 if labelled else np.nan,
                    "base_linear": 0.301 + 0.076 * way**0.7 if labelled else np.nan,
                    "loss": np.nan if rung == 0 else 4.1 - 1.2 * way**0.5 - discrepancy,
                }
            )  # fmt: skip
        if last < 0:
            continue
        end = rungs[-1]
        found = end["discrepancy"]
        half = 0.0 if family == "identity" else 0.006 + 0.06 * found
        rows.append(
            {
                "candidate": name,
                "family": family,
                "cohort": 0,
                "state": state,
                "rungs": min(stop, last),
                "score": float(np.sqrt(found * end["head_knn"])) if labelled else found,
                "discrepancy": found,
                "discrepancy_low": found - half,
                "discrepancy_high": found + half,
                "head_knn": end["head_knn"],
                "head_linear": end["head_linear"],
                "effective_rank": 60 + 300 * found,
                "params_m": 1.2 + 10 * found,
                "gflops": 0.02 + 0.3 * found,
                "step_ms": 20 + 100 * found,
                "reason": reason,
            }
        )
    empty = pd.DataFrame(columns=list(RANKING_COLUMNS))
    return Run(
        path=path,
        config=config(**(config_changes or {})),
        facts=facts(
            seeds=seeds,
            labelled=labelled,
            **({} if labelled else {"baselines": {}}),
            **fact_changes,
        ),
        ranking=rank(pd.DataFrame(rows)) if rows else empty,
        rungs=pd.DataFrame(rungs, columns=list(RUNG_COLUMNS)),
        scores=_scores(rungs, seeds),
    )


def _scores(rungs: list[dict[str, Any]], seeds: int) -> pd.DataFrame:
    """What scores.csv holds: the rungs' figures, under each seed a little off."""
    rng = np.random.default_rng(1)
    rows = []
    for row in rungs:
        off = rng.normal(0, 0.004, seeds) * (seeds > 1)
        for seed, shift in enumerate(off - off.mean()):
            found = row["discrepancy"] + shift
            rows.append(
                {
                    **{name: row[name] for name in ("candidate", "rung", "step", "loss")},
                    "seed": seed,
                    "score": float(np.sqrt(max(0, found) * row["head_knn"])),
                    "discrepancy": found,
                    "cka": found,
                    "mutual_knn": 0.5 + found,
                    "procrustes": found**0.5 if found > 0 else 0.0,
                    "choose_knn": row["head_knn"],
                    "choose_linear": row["head_linear"],
                    "base_choose_knn": row["base_knn"],
                    "base_choose_linear": row["base_linear"],
                    "effective_rank": 60 + 300 * found,
                }
            )
    return pd.DataFrame(rows, columns=list(SCORE_COLUMNS))


def _ends(heads: dict[str, tuple[str, float, float]], last: int) -> dict[str, tuple[str, int, str]]:
    """Half of the heads leave at each rung, down to three; controls stay to the end."""
    stay = "complete" if last == RUNGS else "running"
    controls = {name for name, head in heads.items() if head[0] in ("own", "identity")}
    live = sorted(set(heads) - controls, key=lambda name: -heads[name][1] * heads[name][2])
    ends = dict.fromkeys(heads, (stay, RUNGS, ""))
    for rung in range(1, min(last, RUNGS - 1) + 1):
        kept = live[: max(3, (len(live) + 1) // 2)]
        for name in live[len(kept) :]:
            ends[name] = ("pruned", rung, f"pruned at rung {rung}")
        live = kept
    return ends
