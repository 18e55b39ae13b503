"""The provenance of a run: settings, versions, git commit and base, as config.yaml records them."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from headsearch import torchrun
from headsearch.config.recipes import find_recipe
from headsearch.text import counted
from headsearch.training.setup import (
    TrainingSetup,
)
from headsearch.version import VERSION


def setup_notes(setup: TrainingSetup) -> Iterator[str]:
    """Notes on base, recipe, weights and data, one line each."""
    data = setup.data
    yield str(setup.plan)
    if setup.config.recipe != "short":
        yield f"recipe {setup.config.recipe}: {find_recipe(setup.config.recipe).help}"
    if setup.plan.weights is not None:
        yield str(setup.plan.weights)
    bank = data.bank
    labels = counted(len(bank.classes), "class", "classes") if bank is not None else "no labels"
    images = counted(len(data.train), "training image")
    yield f"{images} from {setup.config.data}, {labels}"
    yield from data.notes


def machine_note(setup: TrainingSetup) -> str:
    """The device, the threads and the precision of a run, in one line."""
    on_cpu = setup.device.type == "cpu"
    threads = f" with {counted(torch.get_num_threads(), 'thread')}" if on_cpu else ""
    others = (
        f", {torchrun.count()} processes with a share of each step" if torchrun.count() > 1 else ""
    )
    return f"{setup.device}{threads}, {'bf16' if setup.autocast else 'float32'}{others}"


def recorded_settings(setup: TrainingSetup, run_directory: Path) -> dict[str, Any]:
    """The content of config.yaml: the resolved settings and all else that decides the results."""
    weights, file = setup.plan.weights, setup.config.base_weights
    packages = ("torch", "torchvision", "timm", "optuna", "numpy")
    return {
        **setup.config.model_dump(mode="json"),
        "image_size": setup.data.train.image_size,
        "device": str(setup.device),
        "precision": "bf16" if setup.autocast else "float32",
        "threads": torch.get_num_threads(),
        "processes": torchrun.count(),
        "out": str(run_directory),
        **({"given": setup.inputs.names} if setup.inputs.names else {}),
        "base_weights": str(file.absolute()) if file is not None else None,
        "first_weights": (
            {"origin": weights.origin, "sha256": weights.sha256} if weights is not None else None
        ),
        "base_arguments": {"timm_name": setup.plan.timm_name, **setup.plan.arguments},
        "git_commit": _git_commit(),
        "versions": {
            "headsearch": VERSION,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
    }


def _git_commit() -> str | None:
    """The git commit of headsearch's source tree; None if it doesn't run from a git checkout."""
    here = Path(__file__).parent
    try:
        # An installed copy may lie inside another project's repository, which does not track it.
        tracked = subprocess.run(
            ["git", "ls-files", "--error-unmatch", Path(__file__).name], cwd=here,
            capture_output=True, check=False,
        )  # fmt: skip
        if tracked.returncode != 0:
            return None
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return head.stdout.strip() or None
