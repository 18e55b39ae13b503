"""What pretraining stands on, with any head or with none: opened, fitted and checked.

A search and a solo run share it, so that the base, its first weights, the images and their order
are the same in both.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import nn

from headsearch import ranks, torchrun
from headsearch.config.recipes import find_recipe
from headsearch.config.settings import Coupling, RunConfig, resolve
from headsearch.data import Data, Source, open_data
from headsearch.data.factory import BUILT_IN_FULL
from headsearch.data.fingerprint import difference, fingerprint
from headsearch.data.loader import steps_per_epoch
from headsearch.device import check_compiler, set_up
from headsearch.errors import UserError, unknown
from headsearch.evaluation.discrepancy import DISCREPANCIES
from headsearch.evaluation.rung import score_rung
from headsearch.evaluation.scores import PROTOTYPE_KL, RungScores
from headsearch.models.bases import (
    BasePlan,
    Weights,
    base_arguments,
    plan_base,
    plan_module,
    pretrained_weights,
    read_weights,
    repeated_blocks,
    timm_name_of,
)
from headsearch.models.network import Network
from headsearch.models.space import Space
from headsearch.objectives import Objective, make_objective, with_prototypes
from headsearch.runs.directory import new_run_directory
from headsearch.runs.run import Run
from headsearch.seeding import seeded_weights
from headsearch.train import Trainer
from headsearch.version import VERSION

CPU_IMAGE_SIZE, ACCELERATOR_IMAGE_SIZE = 64, 224
"""The largest image side in pixels that is chosen where `--image-size` is not given."""

G = TypeVar("G", bound="Ground")

BASE_SETTINGS = ("base", "base_args", "base_weights", "pretrained", "image_size", "patch_size")
"""The settings that say which base it is."""


@dataclass(frozen=True)
class Given:
    """What a Python caller hands over itself; the setting of the same name then only labels it.

    Attributes:
        base: a module of the caller's own, or a base that is fitted already.
    """

    base: nn.Module | BasePlan | None = None
    data: Source | None = None
    eval_data: Source | None = None
    space: Space | None = None

    @property
    def names(self) -> list[str]:
        """Which settings cannot be read back from a file of settings."""
        own_base = isinstance(self.base, nn.Module)
        return [
            name
            for name in ("base", "data", "eval_data", "space")
            if getattr(self, name) is not None and (name != "base" or own_base)
        ]


NOTHING_GIVEN = Given()


def check_given(path: Path, config: Mapping[str, Any], given: Given, how: str) -> None:
    """Raises UserError where a run was given something in Python that it is not given again.

    Args:
        config: what its config.yaml holds.
        how: the function that takes it again.
    """
    for name in config.get("given", []):
        if getattr(given, name) is None:
            raise UserError(
                f"{path}: its {name} was given in Python; give it again there: "
                f"headsearch.{how}(…, {name}=…)"
            )


@dataclass(frozen=True)
class Ground:
    """All that pretraining needs beside its heads."""

    config: RunConfig
    device: torch.device
    autocast: bool
    data: Data
    plan: BasePlan
    objective: Objective
    given: Given
    first_weights: Mapping[int, Path] = field(default_factory=dict, kw_only=True)
    """Of the student without heads, by seed: files that stand in for what the seed decides."""

    @property
    def steps(self) -> int:
        return self.config.epochs * steps_per_epoch(self.data.train, self.config)

    def rung_step(self, rung: int) -> int:
        """How many steps are done when rung r of R is scored: r/R of all; none before rung 0."""
        return round(self.steps * max(0, rung) / self.config.rungs)

    def under(self, seed: int) -> Ground:
        """The same images and labels under another seed: first weights, order and crops differ."""
        return replace(self, config=self.config.model_copy(update={"seed": seed}))

    def starting_from(self: G, files: Mapping[int, Path]) -> G:
        """The same, with first weights from these files, by seed."""
        return replace(self, first_weights={**self.first_weights, **files})

    def new_trainer(self, coupling: Coupling) -> Trainer:
        """A base without heads, whose first weights depend on the seed alone."""
        student = first_student(self.config, self.plan, self.objective, coupling)
        if self.config.seed in self.first_weights:
            student.load_state_dict(load_file(self.first_weights[self.config.seed]))
        return Trainer(student, self.objective, self.config, self.device, autocast=self.autocast)

    def scores(self, network: Network) -> RungScores:
        """The scores of the base and of all heads of a network, the teacher's.

        Each rank scores some of the heads, and all ranks get all scores.
        """
        heads = list(network.heads)
        found = ranks.each_of(
            score_rung(
                network,
                self.data,
                heads=ranks.own(heads),
                measure=self.config.discrepancy,
                batch_size=2 * self.config.batch_size,
                autocast=self.autocast,
                summary=self.objective.summary_of_base,
                prototypes=self.objective.prototypes_of(network),
            )
        )
        of_heads = {name: scores for each in found for name, scores in each.heads.items()}
        return replace(found[0], heads={name: of_heads[name] for name in heads})


def first_student(
    config: RunConfig, plan: BasePlan, objective: Objective, coupling: Coupling
) -> Network:
    """The network before its first step and without heads, as the seed decides it."""
    with seeded_weights(config.seed, "base"):
        base = plan.build(find_recipe(config.recipe).drop_path)
        projection = objective.base_projection(plan)
    return Network(base, projection, coupling)


def prepare_ground(
    config: RunConfig,
    given: Given = NOTHING_GIVEN,
    progress: Callable[[int, int], None] | None = None,
) -> Ground:
    """Opens the data, fits the base and checks the names. Writes nothing.

    Args:
        config: the resolved settings.
        given: what a Python caller hands over in place of what a setting names.
        progress: told how the decoding of images goes.

    Raises:
        UserError: something in the settings or the data cannot be used.
    """
    recipe = find_recipe(config.recipe)
    objective = make_objective(config.objective, **recipe.sizes_for(config.objective))
    if config.discrepancy not in (*DISCREPANCIES, PROTOTYPE_KL):
        raise unknown("discrepancy", config.discrepancy, (*DISCREPANCIES, PROTOTYPE_KL))
    if config.discrepancy == PROTOTYPE_KL and not objective.has_prototypes:
        raise UserError(
            f"--discrepancy {PROTOTYPE_KL} needs an objective with prototypes "
            f"({' or '.join(with_prototypes())}), but --objective is {config.objective}"
        )
    arguments, weights = _named_base(config) if given.base is None else ({}, None)
    if config.download and torchrun.count() > 1:
        raise UserError(
            "--download would fetch the data once a process: fetch them before, by one alone"
        )
    if config.out is not None:
        new_run_directory(config.out, "")  # refused now rather than after decoding
    device, autocast = set_up(config)
    accelerator = device.type != "cpu"
    data = open_data(
        config.data if given.data is None else given.data,
        config.eval_data if given.eval_data is None else given.eval_data,
        image_size=config.image_size,
        images=config.images or (BUILT_IN_FULL if config.data == "scenes" else 0),
        eval_images=config.eval_images,
        bank_images=config.bank_images,
        seed=config.seed if config.data_seed is None else config.data_seed,
        max_image_size=ACCELERATOR_IMAGE_SIZE if accelerator else CPU_IMAGE_SIZE,
        data_dir=config.data_dir,
        download=config.download,
        most_bad=config.max_bad_images,
        progress=progress,
    )
    plan = _plan(config, given, data.train.image_size, arguments, weights, accelerator=accelerator)
    if recipe.drop_path:
        with torch.device("meta"):
            plan.build(recipe.drop_path)  # refused now rather than when training starts
    ground = Ground(config, device, autocast, data, plan, objective, given)
    if config.compile:
        check_compiler(device)
        with torch.device("meta"):
            if not repeated_blocks(plan.build().trunk):
                raise UserError(f"--compile: {config.base} has no blocks that repeat")
    batch = min(config.batch_size, len(data.train))
    if batch % torchrun.count():
        raise UserError(
            f"{batch} images of a step cannot be shared out evenly to {torchrun.count()} "
            f"processes: use a --batch-size that {torchrun.count()} divides"
        )
    if ground.steps < config.rungs:
        raise UserError(
            f"{ground.steps} steps are fewer than {config.rungs} rungs; use more --images or "
            "--epochs, or a smaller --batch-size or --rungs"
        )
    _check_alike(ground)
    return ground


MAY_DIFFER_OVER_RANKS = {"device", "threads", "out", "data_dir"}


def _check_alike(ground: Ground) -> None:
    """Raises UserError where another process of the job has other settings or other data."""
    if torchrun.count() == 1:
        return
    weights = ground.plan.weights
    here = ground.config.model_dump(mode="json", exclude=MAY_DIFFER_OVER_RANKS) | {
        "precision": "bf16" if ground.autocast else "float32",
        "kind of device": ground.device.type,
        "first weights": weights.sha256 if weights is not None else None,
    }
    images = fingerprint(ground.data)
    for number, (there, images_there) in enumerate(ranks.each_of((here, images))):
        pair = f"rank {torchrun.rank()} and rank {number} of this job"
        for name, value in there.items():
            if value != here[name]:
                raise UserError(f"{pair} differ in {name}: {here[name]} and {value}")
        apart = difference(images, images_there)
        if apart is not None:
            raise UserError(f"{pair} have different data: {apart}")


def _named_base(config: RunConfig) -> tuple[dict[str, Any], Weights | None]:
    """The arguments and the first weights of the base that the settings name.

    Read before anything slow.
    """
    timm_name_of(config.base)
    arguments = base_arguments(config.base, config.base_args)
    if config.pretrained and config.base_weights is not None:
        raise UserError("--pretrained and --base-weights exclude each other; give one of them")
    if config.base_weights is not None:
        return arguments, read_weights(config.base_weights)
    return arguments, pretrained_weights(config.base) if config.pretrained else None


def _plan(
    config: RunConfig,
    given: Given,
    image_size: int,
    arguments: dict[str, Any],
    weights: Weights | None,
    *,
    accelerator: bool,
) -> BasePlan:
    if isinstance(given.base, BasePlan):
        return given.base
    if given.base is not None:
        return plan_module(given.base, image_size)
    return plan_base(
        config.base,
        image_size,
        patch_size=config.patch_size,
        accelerator=accelerator,
        arguments=arguments,
        weights=weights,
    )


def plan_of_run(run: Run) -> BasePlan:
    """The base that a search trained, fitted as it was there, on whatever device that was.

    Raises:
        UserError: it was given in Python, or its settings no longer name a base.
    """
    config = resolve({}, run.path / "config.yaml")
    if "base" in run.config.get("given", []):
        raise UserError(
            f"{run.path}: its base was given in Python ({config.base}); give it again there"
        )
    if config.image_size is None:
        raise UserError(f"{run.path / 'config.yaml'}: no image_size: not the config of a run")
    accelerator = not config.device.startswith("cpu")
    arguments, weights = _named_base(config)
    return _plan(
        config, NOTHING_GIVEN, config.image_size, arguments, weights, accelerator=accelerator
    )


def plan_as_recorded(config: RunConfig, recorded: Mapping[str, Any]) -> BasePlan | None:
    """The base of these settings, fitted as a config.yaml records it (`base_arguments`).

    A base that was fitted for an accelerator may go on on a CPU, and the other way round. None
    where neither of the two is what was recorded.
    """
    assert config.image_size is not None
    arguments, weights = _named_base(config)
    for accelerator in (False, True):
        plan = _plan(
            config, NOTHING_GIVEN, config.image_size, arguments, weights, accelerator=accelerator
        )
        if {"timm_name": plan.timm_name, **plan.arguments} == recorded:
            return plan
    return None


def repeats_base(run: Run, config: RunConfig) -> bool:
    """Whether these settings ask for the base that the search trained."""
    before = resolve({}, run.path / "config.yaml")
    same = (getattr(config, name) == getattr(before, name) for name in BASE_SETTINGS)
    return "base" not in run.config.get("given", []) and all(same)


def ground_notes(ground: Ground) -> Iterator[str]:
    """What was found, a line each."""
    data = ground.data
    yield str(ground.plan)
    if ground.config.recipe != "short":
        yield f"recipe {ground.config.recipe}: {find_recipe(ground.config.recipe).help}"
    if ground.plan.weights is not None:
        yield str(ground.plan.weights)
    labels = f", {len(data.bank.classes)} classes" if data.bank is not None else ", no labels"
    yield f"{len(data.train)} training images from {ground.config.data}{labels}"
    yield from data.notes


def machine_note(ground: Ground) -> str:
    """Where it computes, in a line."""
    threads = f" with {torch.get_num_threads()} threads" if ground.device.type == "cpu" else ""
    others = (
        f", {torchrun.count()} processes with a share of each step" if torchrun.count() > 1 else ""
    )
    return f"{ground.device}{threads}, {'bf16' if ground.autocast else 'float32'}{others}"


def ground_settings(ground: Ground, run_directory: Path) -> dict[str, Any]:
    """The settings as resolved, and all else that decides what pretraining comes to."""
    weights, file = ground.plan.weights, ground.config.base_weights
    packages = ("torch", "torchvision", "timm", "optuna", "numpy")
    return {
        **ground.config.model_dump(mode="json"),
        "image_size": ground.data.train.image_size,
        "device": str(ground.device),
        "precision": "bf16" if ground.autocast else "float32",
        "threads": torch.get_num_threads(),
        "processes": torchrun.count(),
        "out": str(run_directory),
        **({"given": ground.given.names} if ground.given.names else {}),
        "base_weights": str(file.absolute()) if file is not None else None,
        "first_weights": (
            {"origin": weights.origin, "sha256": weights.sha256} if weights is not None else None
        ),
        "base_arguments": {"timm_name": ground.plan.timm_name, **ground.plan.arguments},
        "git_commit": _git_commit(),
        "versions": {
            "headsearch": VERSION,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
    }


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
