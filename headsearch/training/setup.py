"""The set-up that searches and solo runs share: data, base, objective, settings and networks.

Everything is opened and checked before the first step. Base, first weights, images and their order
depend on the settings alone, so they are the same with any head and without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from headsearch import torchrun
from headsearch.config import normalization
from headsearch.config.locations import LOCATIONS
from headsearch.config.normalization import Normalization
from headsearch.config.presets import quick_lr
from headsearch.config.recipes import find_recipe
from headsearch.config.settings import Coupling, RunConfig
from headsearch.config.task_settings import tasks_of
from headsearch.config.views import VIEWS, ViewSettings
from headsearch.data import Data
from headsearch.data.domain import Domain
from headsearch.data.domains import domain_of
from headsearch.data.fingerprint import difference, fingerprint
from headsearch.data.loader import Loader, StepViews, steps_per_epoch
from headsearch.errors import UserError, unknown
from headsearch.evaluation.discrepancy import DISCREPANCIES
from headsearch.evaluation.rung import OnScoring, score_rung
from headsearch.evaluation.scores import PROTOTYPE_KL, RungScores
from headsearch.models.bases import (
    BasePlan,
    repeated_blocks,
)
from headsearch.models.heads import FAMILIES
from headsearch.models.network import Network
from headsearch.models.space import Candidate
from headsearch.runs.console import Loading, silently
from headsearch.runs.directory import new_run_directory
from headsearch.seeding import seeded_weights
from headsearch.text import counted
from headsearch.training import distributed
from headsearch.training.base_plan import (
    named_base,
    plan_for,
    with_normalization,
)
from headsearch.training.dense import (
    DenseScoring,
    check_dense_settings,
    open_dense_scoring,
)
from headsearch.training.domain import with_domain
from headsearch.training.environment import check_compiler, set_up
from headsearch.training.head_check import IMAGES, check_head
from headsearch.training.inputs import NO_INPUTS, InMemoryInputs
from headsearch.training.memory_estimate import check_memory
from headsearch.training.multicrop import check_local_views, crops_per_image
from headsearch.training.objectives import Objective, make_objective, with_prototypes
from headsearch.training.opening import data_settings, open_data_of
from headsearch.training.other_data import stages
from headsearch.training.tasks import TaskScoring, open_task_scoring
from headsearch.training.trainer import Trainer


@dataclass(frozen=True)
class TrainingSetup:
    """Everything that training needs besides heads, opened and checked.

    Attributes:
        config: the resolved settings.
        device: the device to train on.
        autocast: whether matrix products run in bfloat16.
        data: the training and evaluation images.
        plan: the base, fitted to the images.
        objective: the self-supervised objective.
        inputs: the objects that a Python caller passed.
        dense: the proxies of segmentation, detection, …; None without `--dense-data`.
        tasks: those of further tasks; None without `--tasks`.
        first_weights: files with the first weights of the student without heads, by seed. They
            replace those that are drawn from the seed.
    """

    config: RunConfig
    device: torch.device
    autocast: bool
    data: Data
    plan: BasePlan
    objective: Objective
    inputs: InMemoryInputs
    dense: DenseScoring | None = None
    tasks: TaskScoring | None = None
    first_weights: Mapping[int, Path] = field(default_factory=dict)

    @property
    def domain(self) -> Domain:
        """The kind of data."""
        return domain_of(self.config)

    @property
    def normalization(self) -> Normalization:
        """What the inputs are normalised with."""
        return normalization.parse(self.config.normalization)

    @property
    def batch(self) -> int:
        """The number of images in a step: the batch size, or fewer if there are fewer images."""
        return min(self.config.batch_size, len(self.data.train))

    @property
    def steps(self) -> int:
        """The number of training steps of one seed."""
        return self.config.epochs * steps_per_epoch(self.data.train, self.config)

    def rung_step(self, rung: int) -> int:
        """The number of steps before a rung is scored: 0 before rung 0, all before the last.

        The first rung comes after the share `first_rung` of the steps, or after one of `rungs`
        equal parts if that is 0; the others follow at equal distances.
        """
        first, rungs = self.config.first_rung, self.config.rungs
        if not first or rungs == 1:
            return round(self.steps * max(0, rung) / rungs)
        share = first + (1 - first) * (rung - 1) / (rungs - 1)
        return round(self.steps * share) if rung > 0 else 0

    def under(self, seed: int, **changes: Any) -> TrainingSetup:
        """The same set-up with another seed: first weights, image order and crops differ.

        Args:
            seed: the seed.
            changes: further settings to change, for example `lr`.
        """
        return replace(self, config=self.config.model_copy(update={"seed": seed, **changes}))

    def starting_from(self, files: Mapping[int, Path]) -> TrainingSetup:
        """The same set-up with first weights from these files, by seed."""
        return replace(self, first_weights={**self.first_weights, **files})

    def new_trainer(self, coupling: Coupling) -> Trainer:
        """A trainer of a base without heads, whose first weights depend on the seed alone."""
        student = first_student(self.config, self.plan, self.objective, coupling)
        if self.config.seed in self.first_weights:
            student.load_state_dict(load_file(self.first_weights[self.config.seed]))
        return Trainer(student, self.objective, self.config, self.device, autocast=self.autocast)

    def new_loader(self) -> Loader:
        """The loader of the crops of every step, in the order that the seed determines."""
        return Loader(self.data.train, self.config, self.device)

    def random_views(self, seed: int = 0) -> StepViews:
        """Random numbers in the shape of all crops of a step, to measure steps with."""
        generator, shape = torch.Generator().manual_seed(seed), self.plan.input_shape

        def drawn(count: int, *sizes: int) -> torch.Tensor:
            return torch.randn((count, self.batch, *sizes), generator=generator).to(self.device)

        if shape.vocabulary:
            sizes = (VIEWS, self.batch, 2, shape.width)
            ids = torch.randint(shape.vocabulary, sizes, generator=generator)
            return StepViews(ids.to(self.device), None)
        crops, local = drawn(VIEWS, *shape.floats), None
        views = self.domain.views(self.config, shape)
        if isinstance(views, ViewSettings) and views.local_views:
            side = views.local_side(shape.width)
            local = drawn(views.local_views, shape.channels, side, side)
        return StepViews(crops, local)

    def scores(self, network: Network, on_progress: OnScoring = lambda _: None) -> RungScores:
        """The scores of the base and of all heads of a network.

        Each rank scores some of the heads, and all ranks get all scores.

        Args:
            network: the teacher's network.
            on_progress: called many times while they are scored.
        """
        heads = list(network.heads)
        own = distributed.local_part(heads)
        further = [each for each in (self.dense, self.tasks) if each is not None]
        stage = stages(on_progress, 1 + len(further))
        scores = score_rung(
            network,
            self.data,
            heads=own,
            measure=self.config.discrepancy,
            batch_size=2 * self.batch,
            autocast=self.autocast,
            summary=self.objective.summary_of_base,
            prototypes=self.objective.prototypes_of(network),
            normalization=self.normalization,
            on_progress=next(stage),
        )
        for each in further:
            scores = each.added(
                scores, network, autocast=self.autocast, normalization=self.normalization,
                on_progress=next(stage),
            )  # fmt: skip
        parts = distributed.gather_objects(scores)
        by_head = {name: scores for part in parts for name, scores in part.heads.items()}
        return replace(parts[0], heads={name: by_head[name] for name in heads})


def first_student(
    config: RunConfig, plan: BasePlan, objective: Objective, coupling: Coupling
) -> Network:
    """The student without heads, with the first weights that the seed determines."""
    with seeded_weights(config.seed, "base"):
        base = plan.build(find_recipe(config.recipe).drop_path)
        projection = objective.base_projection(plan)
    return Network(base, projection, coupling)


def prepare_training(
    config: RunConfig,
    inputs: InMemoryInputs = NO_INPUTS,
    loading: Loading = silently,
) -> TrainingSetup:
    """Opens the data, fits the base and checks the names. Writes nothing.

    Everything that can be checked without the data is checked before it is opened, which may take
    long.

    Args:
        config: the resolved settings.
        inputs: objects that a Python caller passes in place of names.
        loading: told what is being loaded.

    Raises:
        UserError: something in the settings or the data cannot be used.
    """
    recipe = find_recipe(config.recipe)
    objective = make_objective(config.objective, **recipe.sizes_for(config.objective))
    _check_discrepancy(config, objective)
    config = with_domain(config, inputs)
    check_dense_settings(config)
    tasks_of(config.tasks)  # raises if they are not written as tasks are
    arguments, weights = named_base(config) if inputs.base is None else ({}, None)
    config = with_normalization(config, inputs.base, weights)
    if config.out is not None:
        new_run_directory(config.out, "")  # raises if it exists
    device, autocast = set_up(config)
    accelerator = device.type != "cpu"
    data = open_data_of(config, inputs, loading, accelerator=accelerator)
    domain, shape = domain_of(config), data.train.shape
    views = domain.views(config, shape)
    scale = domain.normalization(config.normalization, data.train)
    found = {**data.resolved, "views": str(views), "normalization": str(scale)}
    config = config.model_copy(update=found)
    loading(f"building the base {config.base}")
    plan = plan_for(config, inputs, shape, arguments, weights, accelerator=accelerator)
    if config.lr is None:
        config = config.model_copy(update={"lr": quick_lr(plan.dim)})
    batch = 2 * min(config.batch_size, len(data.train))
    dense = open_dense_scoring(config, data.train.image_size, plan.grid, batch, device, loading)
    tasks = open_task_scoring(
        config, data, data_settings(config, accelerator=accelerator), objective.summary_of_base,
        batch, loading,
    )  # fmt: skip
    setup = TrainingSetup(config, device, autocast, data, plan, objective, inputs, dense, tasks)
    _check_base(setup)
    check_local_views(config, plan, objective, views)
    if not config.compile:  # a compiled base may keep less than is counted
        crops = crops_per_image(views, plan.image_size)
        check_memory(plan, setup.batch, device, autocast=autocast, crops_per_image=crops)
    _check_steps(setup)
    _check_ranks_agree(setup)
    return setup


def _check_discrepancy(config: RunConfig, objective: Objective) -> None:
    """Raises UserError if the discrepancy is unknown or does not work with this objective."""
    if config.discrepancy not in (*DISCREPANCIES, PROTOTYPE_KL):
        raise unknown("discrepancy", config.discrepancy, (*DISCREPANCIES, PROTOTYPE_KL))
    if config.discrepancy == PROTOTYPE_KL and not objective.has_prototypes:
        raise UserError(
            f"--discrepancy {PROTOTYPE_KL} needs an objective with prototypes "
            f"({' or '.join(with_prototypes())}), but --objective is {config.objective}"
        )


def _check_base(setup: TrainingSetup) -> None:
    """Raises UserError if the base cannot be built or compiled with these settings."""
    config, recipe = setup.config, find_recipe(setup.config.recipe)
    if config.compile:
        check_compiler(setup.device)
    with torch.device("meta"):  # builds without memory or time
        if recipe.drop_path:
            setup.plan.build(recipe.drop_path)
        if config.compile and not repeated_blocks(setup.plan.build().trunk):
            raise UserError(f"--compile: {config.base} has no repeated blocks to compile")


def _check_steps(setup: TrainingSetup) -> None:
    """Raises UserError if processes cannot share a step evenly, or there are too few steps."""
    config, batch = setup.config, setup.batch
    if batch % torchrun.count():
        raise UserError(
            f"{batch} {setup.domain.words.samples} of a step cannot be shared out evenly to "
            f"{torchrun.count()} processes: use a --batch-size that is a multiple of "
            f"{torchrun.count()}"
        )
    if setup.steps < config.rungs:
        compared = "is less" if setup.steps == 1 else "are fewer"
        raise UserError(
            f"{counted(setup.steps, 'step')} {compared} than {counted(config.rungs, 'rung')}; "
            "use more --images or --epochs, or a smaller --batch-size or --rungs"
        )
    steps = [setup.rung_step(rung) for rung in range(config.rungs + 1)]
    if len(set(steps)) < len(steps):
        raise UserError(
            f"--first-rung {config.first_rung:g} leaves no step between some of "
            f"{counted(config.rungs, 'rung')} of {counted(setup.steps, 'step')}; use a value "
            f"nearer to {1 / config.rungs:.2g}"
        )


MAY_DIFFER_OVER_RANKS = {"device", "threads", "out", *LOCATIONS}
"""Settings that the processes of a job need not agree on: they don't change the results.

What lies at the locations is compared by its content."""


def _check_ranks_agree(setup: TrainingSetup) -> None:
    """Raises UserError if another process of the job has other settings or other data."""
    if torchrun.count() == 1:
        return
    weights = setup.plan.weights
    here = setup.config.model_dump(mode="json", exclude=MAY_DIFFER_OVER_RANKS) | {
        "precision": "bf16" if setup.autocast else "float32",
        "kind of device": setup.device.type,
        "first weights": weights.sha256 if weights is not None else None,
        "dense data": setup.dense.fingerprint if setup.dense is not None else None,
        "tasks": setup.tasks.fingerprint if setup.tasks is not None else None,
    }
    images = fingerprint(setup.data)
    for rank, (there, images_there) in enumerate(distributed.gather_objects((here, images))):
        pair = f"rank {torchrun.rank()} and rank {rank} of this job"
        for name, value in there.items():
            if value != here[name]:
                raise UserError(f"{pair} differ in {name}: {here[name]} and {value}")
        differing = difference(images, images_there, setup.domain.words)
        if differing is not None:
            raise UserError(f"{pair} have different data: {differing}")


def attach(trainer: Trainer, setup: TrainingSetup, candidate: Candidate) -> None:
    """Attaches a candidate's head. Its first weights are the same in any cohort.

    Raises:
        HeadFailedError: it is a family of the user's own, and its heads cannot train.
    """
    dim, grid = setup.plan.stages[candidate.feature_index]
    if candidate.block not in FAMILIES:
        features = torch.zeros(IMAGES, dim, *grid, device=setup.device)
        check_head(
            candidate.name, lambda: candidate.build(dim, grid), features, autocast=setup.autocast
        )
    trainer.attach(candidate.name, lambda: candidate.build(dim, grid), dim, candidate.feature_index)
