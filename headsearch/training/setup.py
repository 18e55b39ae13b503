"""What pretraining stands on, with any head or with none: opened, fitted and checked.

A search and a solo run share it, so that the base, its first weights, the images and their order
are the same in both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file

from headsearch import torchrun
from headsearch.config.recipes import find_recipe
from headsearch.config.settings import Coupling, RunConfig
from headsearch.data import Data, DataSettings, open_data
from headsearch.data.factory import BUILT_IN_FULL
from headsearch.data.fingerprint import difference, fingerprint
from headsearch.data.loader import Loader, steps_per_epoch
from headsearch.errors import UserError, unknown
from headsearch.evaluation.discrepancy import DISCREPANCIES
from headsearch.evaluation.rung import score_rung
from headsearch.evaluation.scores import PROTOTYPE_KL, RungScores
from headsearch.models.bases import (
    BasePlan,
    repeated_blocks,
)
from headsearch.models.network import Network
from headsearch.models.space import Candidate
from headsearch.runs.directory import new_run_directory
from headsearch.seeding import seeded_weights
from headsearch.training import distributed
from headsearch.training.base_plan import (
    named_base,
    plan_for,
)
from headsearch.training.environment import check_compiler, set_up
from headsearch.training.inputs import NO_INPUTS, InMemoryInputs
from headsearch.training.objectives import Objective, make_objective, with_prototypes
from headsearch.training.trainer import Trainer

CPU_IMAGE_SIZE, ACCELERATOR_IMAGE_SIZE = 64, 224
"""The largest image side in pixels that is chosen where `--image-size` is not given."""

G = TypeVar("G", bound="TrainingSetup")


@dataclass(frozen=True)
class TrainingSetup:
    """All that pretraining needs beside its heads."""

    config: RunConfig
    device: torch.device
    autocast: bool
    data: Data
    plan: BasePlan
    objective: Objective
    inputs: InMemoryInputs
    first_weights: Mapping[int, Path] = field(default_factory=dict, kw_only=True)
    """Of the student without heads, by seed: files that stand in for what the seed decides."""

    @property
    def steps(self) -> int:
        return self.config.epochs * steps_per_epoch(self.data.train, self.config)

    def rung_step(self, rung: int) -> int:
        """How many steps are done when rung r of R is scored: r/R of all; none before rung 0."""
        return round(self.steps * max(0, rung) / self.config.rungs)

    def under(self, seed: int, **changes: Any) -> TrainingSetup:
        """The same images and labels under another seed: first weights, order and crops differ.

        Args:
            changes: further settings that differ, for example `lr`.
        """
        return replace(self, config=self.config.model_copy(update={"seed": seed, **changes}))

    def starting_from(self: G, files: Mapping[int, Path]) -> G:
        """The same, with first weights from these files, by seed."""
        return replace(self, first_weights={**self.first_weights, **files})

    def new_trainer(self, coupling: Coupling) -> Trainer:
        """A base without heads, whose first weights depend on the seed alone."""
        student = first_student(self.config, self.plan, self.objective, coupling)
        if self.config.seed in self.first_weights:
            student.load_state_dict(load_file(self.first_weights[self.config.seed]))
        return Trainer(student, self.objective, self.config, self.device, autocast=self.autocast)

    def new_loader(self) -> Loader:
        """The crops of every step, in the order that the seed decides."""
        return Loader(self.data.train, self.config, self.device)

    def scores(self, network: Network) -> RungScores:
        """The scores of the base and of all heads of a network, the teacher's.

        Each rank scores some of the heads, and all ranks get all scores.
        """
        heads = list(network.heads)
        found = distributed.gather_objects(
            score_rung(
                network,
                self.data,
                heads=distributed.local_part(heads),
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


def prepare_training(
    config: RunConfig,
    inputs: InMemoryInputs = NO_INPUTS,
    progress: Callable[[int, int], None] | None = None,
) -> TrainingSetup:
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
    arguments, weights = named_base(config) if inputs.base is None else ({}, None)
    if config.download and torchrun.count() > 1:
        raise UserError(
            "--download would fetch the data once a process: fetch them before, by one alone"
        )
    if config.out is not None:
        new_run_directory(config.out, "")  # refused now rather than after decoding
    device, autocast = set_up(config)
    accelerator = device.type != "cpu"
    data = open_data(
        config.data if inputs.data is None else inputs.data,
        config.eval_data if inputs.eval_data is None else inputs.eval_data,
        DataSettings(
            image_size=config.image_size,
            images=config.images or (BUILT_IN_FULL if config.data == "scenes" else 0),
            eval_images=config.eval_images,
            bank_images=config.bank_images,
            seed=config.seed if config.data_seed is None else config.data_seed,
            max_image_size=ACCELERATOR_IMAGE_SIZE if accelerator else CPU_IMAGE_SIZE,
            data_dir=config.data_dir,
            download=config.download,
            max_bad_images=config.max_bad_images,
        ),
        progress,
    )
    plan = plan_for(
        config, inputs, data.train.image_size, arguments, weights, accelerator=accelerator
    )
    if recipe.drop_path:
        with torch.device("meta"):
            plan.build(recipe.drop_path)  # refused now rather than when training starts
    setup = TrainingSetup(config, device, autocast, data, plan, objective, inputs)
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
    if setup.steps < config.rungs:
        raise UserError(
            f"{setup.steps} steps are fewer than {config.rungs} rungs; use more --images or "
            "--epochs, or a smaller --batch-size or --rungs"
        )
    _check_alike(setup)
    return setup


MAY_DIFFER_OVER_RANKS = {"device", "threads", "out", "data_dir"}


def _check_alike(setup: TrainingSetup) -> None:
    """Raises UserError where another process of the job has other settings or other data."""
    if torchrun.count() == 1:
        return
    weights = setup.plan.weights
    here = setup.config.model_dump(mode="json", exclude=MAY_DIFFER_OVER_RANKS) | {
        "precision": "bf16" if setup.autocast else "float32",
        "kind of device": setup.device.type,
        "first weights": weights.sha256 if weights is not None else None,
    }
    images = fingerprint(setup.data)
    for number, (there, images_there) in enumerate(distributed.gather_objects((here, images))):
        pair = f"rank {torchrun.rank()} and rank {number} of this job"
        for name, value in there.items():
            if value != here[name]:
                raise UserError(f"{pair} differ in {name}: {here[name]} and {value}")
        apart = difference(images, images_there)
        if apart is not None:
            raise UserError(f"{pair} have different data: {apart}")


def attach(trainer: Trainer, setup: TrainingSetup, candidate: Candidate) -> None:
    """Attaches a candidate's head, with the first weights that it has in any cohort."""
    dim, grid = setup.plan.stages[candidate.feature_index]
    trainer.attach(
        candidate.name,
        lambda: candidate.build(dim, grid),
        dim,
        feature_index=candidate.feature_index,
    )
