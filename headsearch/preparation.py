"""Before a search: everything opened, fitted and checked, and nothing written."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import headsearch
from headsearch import checkpoint
from headsearch.bases import (
    BasePlan,
    Weights,
    base_arguments,
    plan_base,
    pretrained_weights,
    read_weights,
    timm_name_of,
)
from headsearch.cohorts import planned
from headsearch.config import BUILT_IN_FULL, RunConfig
from headsearch.data import Data, open_data
from headsearch.errors import UserError, unknown
from headsearch.machine import set_up
from headsearch.objectives import Objective, make_objective, with_prototypes
from headsearch.pruning import make_pruner
from headsearch.recipes import find_recipe
from headsearch.samplers import make_sampler
from headsearch.scores.discrepancy import DISCREPANCIES
from headsearch.scores.rung import PROTOTYPE_KL
from headsearch.space import Listing, ResolvedSpace, find_space, load_space
from headsearch.train import steps_per_epoch

CPU_IMAGE_SIZE, ACCELERATOR_IMAGE_SIZE = 64, 224
"""The largest image side in pixels that is chosen where `--image-size` is not given."""


@dataclass(frozen=True)
class Prepared:
    """All that a run needs, opened and checked."""

    config: RunConfig
    device: torch.device
    autocast: bool
    data: Data
    plan: BasePlan
    space: ResolvedSpace
    listing: Listing | None
    objective: Objective
    notes: tuple[str, ...]
    """What was decided, a line each, for the run to say before it starts."""

    @property
    def steps(self) -> int:
        return self.config.epochs * steps_per_epoch(self.data.train, self.config)

    @property
    def rank_by(self) -> str:
        if self.config.rank_by != "auto":
            return self.config.rank_by
        return "balanced" if self.data.bank is not None else "discrepancy"

    def rung_step(self, rung: int) -> int:
        """How many steps are done when rung r of R is scored: r/R of all; none before rung 0."""
        return round(self.steps * max(0, rung) / self.config.rungs)


def prepare(config: RunConfig, progress: Callable[[int, int], None] | None = None) -> Prepared:
    """Opens the data, fits the base, resolves the space and checks every name. Writes nothing.

    Args:
        config: the resolved settings.
        progress: told how the decoding of images goes.

    Raises:
        UserError: something in the settings, the space or the data cannot be used.
    """
    recipe = find_recipe(config.recipe)
    objective = make_objective(config.objective, **recipe.sizes_for(config.objective))
    make_pruner(config.pruner, eta=config.eta, min_keep=config.min_keep, rungs=config.rungs)
    make_sampler(config.sampler, config.seed)
    if config.discrepancy not in (*DISCREPANCIES, PROTOTYPE_KL):
        raise unknown("discrepancy", config.discrepancy, (*DISCREPANCIES, PROTOTYPE_KL))
    if config.discrepancy == PROTOTYPE_KL and not objective.has_prototypes:
        raise UserError(
            f"--discrepancy {PROTOTYPE_KL} needs an objective with prototypes "
            f"({' or '.join(with_prototypes())}), but --objective is {config.objective}"
        )
    timm_name_of(config.base)
    arguments = base_arguments(config.base, config.base_args)
    weights = _first_weights(config)
    space = load_space(find_space(config.space))
    if config.out is not None:
        checkpoint.new_run_directory(config.out, "")  # refused now rather than after decoding
    device, autocast = set_up(config)
    accelerator = device.type != "cpu"
    data = open_data(
        config.data,
        config.eval_data,
        image_size=config.image_size,
        images=config.images or (BUILT_IN_FULL if config.data == "scenes" else 0),
        eval_images=config.eval_images,
        bank_images=config.bank_images,
        seed=config.seed,
        max_image_size=ACCELERATOR_IMAGE_SIZE if accelerator else CPU_IMAGE_SIZE,
        data_dir=config.data_dir,
        download=config.download,
        progress=progress,
    )
    if data.bank is None and config.rank_by in ("accuracy", "balanced"):
        raise UserError(
            f"--rank-by {config.rank_by} needs labels, and {config.eval_data or config.data} has "
            "none; use --rank-by discrepancy or labelled --eval-data"
        )
    plan = plan_base(
        config.base,
        data.train.image_size,
        patch_size=config.patch_size,
        accelerator=accelerator,
        arguments=arguments,
        weights=weights,
    )
    if recipe.drop_path:
        with torch.device("meta"):
            plan.build(recipe.drop_path)  # refused now rather than when training starts
    resolved = space.on(plan)
    listing = resolved.enumerate(config.trials)
    if listing is None and config.trials <= len(resolved.controls):
        raise UserError(
            f"--trials {config.trials} leaves no room beside the {len(resolved.controls)} controls "
            "of the space; use more"
        )
    prepared = Prepared(
        config, device, autocast, data, plan, resolved, listing, objective, notes=()
    )
    if prepared.steps < config.rungs:
        raise UserError(
            f"{prepared.steps} steps are fewer than {config.rungs} rungs; use more --images or "
            "--epochs, or a smaller --batch-size or --rungs"
        )
    return replace(prepared, notes=tuple(_notes(prepared)))


def _first_weights(config: RunConfig) -> Weights | None:
    """What the base starts from where the settings name something, read before anything slow."""
    if config.pretrained and config.base_weights is not None:
        raise UserError("--pretrained and --base-weights exclude each other; give one of them")
    if config.base_weights is not None:
        return read_weights(config.base_weights)
    return pretrained_weights(config.base) if config.pretrained else None


def _notes(prepared: Prepared) -> Iterator[str]:
    config, data, listing = prepared.config, prepared.data, prepared.listing
    yield str(prepared.plan)
    if config.recipe != "short":
        yield f"recipe {config.recipe}: {find_recipe(config.recipe).help}"
    if prepared.plan.weights is not None:
        yield str(prepared.plan.weights)
    labels = f", {len(data.bank.classes)} classes" if data.bank is not None else ", no labels"
    yield f"{len(data.train)} training images from {config.data}{labels}"
    yield from data.notes
    count = planned(prepared.space, listing, config)
    if listing is None:
        yield f"{count} candidates, sampled by {config.sampler} from {config.space}"
    else:
        left_out = f"; {len(listing.excluded)} left out by constraints" if listing.excluded else ""
        yield f"{count} candidates: all of {config.space}{left_out}"
    yield from prepared.space.notes
    yield (
        f"{prepared.steps} steps of {config.batch_size} images ({config.epochs} epochs), scored at "
        f"{config.rungs} rungs, ranked by {prepared.rank_by}, heads {config.coupling}"
    )
    threads = f" with {torch.get_num_threads()} threads" if prepared.device.type == "cpu" else ""
    yield f"{prepared.device}{threads}, {'bf16' if prepared.autocast else 'float32'}"


def settings_of(prepared: Prepared, run_directory: Path) -> dict[str, Any]:
    """What config.yaml holds: the settings, and all else that decides what the run finds."""
    space = prepared.space.space
    weights, file = prepared.plan.weights, prepared.config.base_weights
    packages = ("torch", "torchvision", "timm", "optuna", "numpy")
    return {
        **prepared.config.model_dump(mode="json"),
        "rank_by": prepared.rank_by,
        "image_size": prepared.data.train.image_size,
        "device": str(prepared.device),
        "precision": "bf16" if prepared.autocast else "float32",
        "threads": torch.get_num_threads(),
        "out": str(run_directory),
        "storage": _absolute(prepared.config.storage),
        "study_name": f"{run_directory.name}-{space.hash}-{datetime.now():%Y%m%dT%H%M%S}",
        "space_hash": space.hash,
        "space_content": space.written(),
        "base_weights": str(file.absolute()) if file is not None else None,
        "first_weights": (
            {"origin": weights.origin, "sha256": weights.sha256} if weights is not None else None
        ),
        "base_arguments": {"timm_name": prepared.plan.timm_name, **prepared.plan.arguments},
        "git_commit": _git_commit(),
        "versions": {
            "headsearch": headsearch.__version__,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
    }


def _absolute(storage: str | None) -> str | None:
    """A storage URL that means the same from every directory."""
    relative = storage.removeprefix("sqlite:///") if storage is not None else None
    if relative is None or relative == storage:
        return storage
    return f"sqlite:///{Path(relative).absolute()}"


def _git_commit() -> str | None:
    """The commit of headsearch's own source tree, where it runs from one."""
    here = Path(__file__).parent
    try:
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
