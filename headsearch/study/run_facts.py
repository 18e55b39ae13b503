"""The facts that a search records about itself before its first step, and its baselines."""

from __future__ import annotations

from datetime import datetime

import torch

from headsearch.evaluation.features import PROBE_IMAGES
from headsearch.evaluation.scores import Scores
from headsearch.runs.facts import RunFacts
from headsearch.study.setup import SearchSetup


def first_facts(prepared: SearchSetup) -> RunFacts:
    """The facts that are known before the first step."""
    data, plan = prepared.data, prepared.plan
    return {
        "started": datetime.now().isoformat(timespec="seconds"),
        "base": {
            "name": plan.name,
            "timm_name": plan.timm_name,
            "dim": plan.dim,
            "grid": list(plan.grid),
            "params_m": plan.params_m,
            "gflops": plan.gflops,
        },
        "device": str(prepared.training.device),
        "precision": "bf16" if prepared.training.autocast else "float32",
        "threads": torch.get_num_threads(),
        "images": len(data.train),
        "eval": {
            "bank": len(data.bank) if data.bank is not None else 0,
            "choose": len(data.choose),
            "report": len(data.report),
            "probe": min(PROBE_IMAGES, len(data.queries)),
            "classes": len(data.bank.classes) if data.bank is not None else 0,
        },
        "labelled": data.bank is not None,
        "data_warnings": list(data.warnings),
        "baselines": {},
        "rung_count": prepared.config.rungs,
        "seeds": prepared.config.seeds,
        "steps": prepared.training.steps,
        "space_size": prepared.space.size,
        "excluded": len(prepared.listing.excluded) if prepared.listing is not None else None,
        "cost_base_equivalents": 0.0,
        "solo_equivalents": 0.0,
        "lowered": [],
        "splits": [],
        "settled": None,
        "went_back": None,
    }


def note_baseline(facts: RunFacts, name: str, scores: Scores) -> None:
    """Adds the accuracies of a baseline, measured on the reporting labels."""
    if scores.report is not None:
        facts["baselines"][f"{name}_knn"] = scores.report.knn
        facts["baselines"][f"{name}_linear"] = scores.report.linear
