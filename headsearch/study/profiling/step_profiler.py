"""Time and memory of one training step: of the whole base, and of a head on fixed base features.

Shapes: B images; the two crops of a step's images are stacked as (2B, C, S, S).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from headsearch.config.settings import ImagesPerHead
from headsearch.data import Data
from headsearch.data.loader import Loader
from headsearch.device import mixed_precision, synchronize
from headsearch.models.bases import Base, BaseOutput
from headsearch.models.bases.shapes import REFUSALS
from headsearch.models.network import Network
from headsearch.models.space import Candidate
from headsearch.training.schedules import StepPosition
from headsearch.training.setup import TrainingSetup, attach
from headsearch.training.trainer import Trainer

AT_LEAST_S = 0.2
"""Work that takes less than this many seconds is repeated, and its mean time is reported."""
PRODUCT_SIDES, PRODUCT_S = (1024, 2048, 4096, 8192), 0.02
"""Sides of the square matrices of `product_rate`, in growing order. The first product that takes
longer than `PRODUCT_S` seconds reaches the device's peak rate, so no larger one is tried."""
MIDDLE = StepPosition(50, 100)
"""The position in a run at which steps are measured: no part of the network is frozen any more."""


@dataclass(frozen=True)
class Size:
    """What a base or a head holds in memory during training.

    Attributes:
        params: number of trained parameters, norm and projection included.
        kept: bytes of activations that the forward pass of a step keeps for the backward pass.
    """

    params: float
    kept: float

    def seeing(self, share: float) -> Size:
        """The size where only this share (0 to 1) of a step's images is seen."""
        return Size(self.params, share * self.kept)


class StepProfiler:
    """Measures steps of the search's own trainer on random crops that are made in advance.

    A step is all that `Trainer.step` does: forward and backward passes of base and heads over both
    crops, the teacher's forward pass where the objective has a teacher, gradient clipping, the
    optimizer's update and the update of the teacher. Loading and augmentation are not included.

    Args:
        setup: the base, objective and settings whose steps are measured.
    """

    def __init__(self, setup: TrainingSetup) -> None:
        self._setup = setup
        self._crops, self._local = setup.random_views(setup.config.seed)
        self._whole = setup.new_trainer(setup.config.coupling)
        self._features = self._base_features()
        self._fixed = self._trainer_on_fixed_features("all")
        self._fixed_images: ImagesPerHead = "all"

    def joint(self, heads: Sequence[Candidate]) -> float:
        """Seconds of a step of the base with these heads, or with none, as in a search."""
        return self._step_seconds(self._whole, heads)

    def solo(self, head: Candidate) -> float:
        """Seconds of a step of the base with this head alone, which sees all images."""
        return self._step_seconds(self._solo, [head])

    def crops(self) -> float:
        """Seconds that it takes to make the crops of a step: read or decode, and augment."""
        setup = self._setup

        def make_crops() -> None:
            # A new loader each time, so that nothing was read ahead.
            Loader(setup.data.train, setup.config, setup.device).crops(setup.steps - 1)

        return seconds_of(make_crops, setup.device)

    def own(self, head: Candidate, images: ImagesPerHead = "all") -> float:
        """Seconds that a head by itself adds to a step, measured on fixed features of the base.

        The difference of two steps on fixed features, with the head and without. It holds all work
        that is the head's own: its forward and backward passes over both crops with its norm, its
        projection and its losses (also those of the base toward it), the gradient toward the
        base's features (in `joint` coupling), its teacher's forward pass where the objective has a
        teacher, and its share of clipping, optimizer update and teacher update.

        Args:
            images: how many of the step's images the head sees.
        """
        trainer = self._on_fixed_features(images)
        without_head = self._step_seconds(trainer, [])
        return max(0.0, self._step_seconds(trainer, [head]) - without_head)

    def scoring(self, heads: Sequence[Candidate], data: Data) -> float:
        """Seconds that it takes to score the base with these heads once on these images.

        Dense data and tasks, which have samples of their own, are left out: `other_scoring`.
        """
        network = self._attached(self._whole, heads).teacher.network
        setup = replace(self._setup, data=data, dense=None, tasks=None)
        return _elapsed(lambda: setup.scores(network), 1, setup.device)

    def other_scoring(self, heads: Sequence[Candidate]) -> float:
        """Seconds of the scores of the base and these heads on dense data and further tasks."""
        setup, dense = self._setup, self._setup.dense
        scorings = [each for each in (dense, setup.tasks) if each is not None]
        if not scorings:
            return 0.0
        if dense is not None:
            dense.scorer.tasks(dense.grid)  # made once in a run
        network = self._attached(self._whole, heads).teacher.network.eval()
        names = [head.name for head in heads]

        def score() -> None:
            for each in scorings:
                each.of_network(
                    network, names, autocast=setup.autocast, normalization=setup.normalization
                )

        return _elapsed(score, 1, setup.device)

    def size_of_base(self) -> Size:
        """What the base holds without heads."""
        trainer = self._attached(self._whole, [])
        parameters = (parameter for _, parameter in trainer.student.base_parameters())
        return Size(_count(parameters), self._kept(trainer))

    def size_of(self, head: Candidate) -> Size:
        """What a head that sees all images adds to that, on fixed features of the base."""
        trainer = self._on_fixed_features("all")
        without_head = self._kept(self._attached(trainer, []))
        with_head = self._kept(self._attached(trainer, [head]))
        params = _count(trainer.student.heads[head.name].parameters())
        return Size(params, max(0, with_head - without_head))

    def _step_seconds(self, trainer: Trainer, heads: Sequence[Candidate]) -> float:
        """Seconds of a step with exactly these heads attached."""
        self._attached(trainer, heads)
        local = self._local_of(trainer)
        while not trainer.settled:
            trainer.step(self._crops, MIDDLE, local)
        seconds = seconds_of(lambda: trainer.step(self._crops, MIDDLE, local), self._setup.device)
        # On CUDA a recorded step keeps its memory, which the next trainer's steps may need.
        trainer.drop_graph()
        return seconds

    def _kept(self, trainer: Trainer) -> int:
        """Bytes of activations that the forward pass of a step keeps for its backward pass."""
        features = self._features
        # The crops and the fixed features stand in for a batch and the base: they are no
        # activations of what is measured here.
        weights = trainer.student.state_dict().values()
        return activation_bytes(
            lambda: trainer.losses(self._crops.flatten(0, 1), MIDDLE, self._local_of(trainer)),
            (
                *features.maps_BDHW.values(),
                features.tokens_BND,
                features.pooled_BD,
                self._crops,
                *weights,
            ),
        )

    def _local_of(self, trainer: Trainer) -> Tensor | None:
        """The local crops of a step; none for a trainer on fixed features."""
        return None if trainer is self._fixed else self._local

    def _attached(self, trainer: Trainer, heads: Sequence[Candidate]) -> Trainer:
        """The trainer with exactly these heads attached; others are detached."""
        wanted = {head.name for head in heads}
        for name in trainer.student.heads.keys() - wanted:
            trainer.detach(name)
        for head in heads:
            if head.name not in trainer.student.heads:
                attach(trainer, self._setup, head)
        return trainer

    @cached_property
    def _solo(self) -> Trainer:
        """A trainer of the base whose heads see all images: the joint one, if its heads do."""
        setup = self._seeing("all")
        if setup.config == self._setup.config:
            return self._whole
        return setup.new_trainer(setup.config.coupling)

    def _seeing(self, images: ImagesPerHead) -> TrainingSetup:
        """The setup in which each head sees this many images of a step."""
        config = self._setup.config.model_copy(update={"images_per_head": images})
        return replace(self._setup, config=config)

    def _base_features(self) -> BaseOutput:
        """The base's output on the crops, with a map for every block that a head may attach to."""
        setup, base = self._setup, self._whole.student.base.train()
        feature_indices = range(len(setup.plan.stages))
        with torch.no_grad(), mixed_precision(setup.device, setup.autocast):
            features: BaseOutput = base(self._crops.flatten(0, 1), feature_indices=feature_indices)
        return features

    def _on_fixed_features(self, images: ImagesPerHead) -> Trainer:
        """The trainer on fixed features whose heads see this many images.

        One is kept, not one for each number of images: the teacher's network holds a copy of all
        features.
        """
        if images != self._fixed_images:
            self._fixed = self._trainer_on_fixed_features(images)
            self._fixed_images = images
        return self._fixed

    def _trainer_on_fixed_features(self, images: ImagesPerHead) -> Trainer:
        """A trainer whose base computes nothing: it returns the fixed features."""
        setup = self._seeing(images)
        projection = setup.objective.base_projection(setup.plan)
        base = cast(Base, _FixedFeatures(self._features))
        return Trainer(
            Network(base, projection, setup.config.coupling),
            setup.objective,
            setup.config,
            setup.device,
            autocast=setup.autocast,
        )


class _FixedFeatures(nn.Module):
    """Stands in for a base: returns the same features for all images."""

    def __init__(self, features: BaseOutput) -> None:
        super().__init__()
        self._features = features

    def forward(
        self,
        images_BCSS: Tensor,
        mask_BHW: Tensor | None = None,
        feature_indices: Sequence[int] = (0,),
    ) -> BaseOutput:
        # New leaf tensors: gradients are computed up to here, as in training, and then dropped.
        features = self._features
        return BaseOutput(
            {index: _leaf(features.maps_BDHW[index]) for index in feature_indices},
            _leaf(features.tokens_BND),
            _leaf(features.pooled_BD),
            features.valid,
        )


def _leaf(features: Tensor) -> Tensor:
    return features.detach().requires_grad_(torch.is_grad_enabled())


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def activation_bytes(forward: Callable[[], object], known: Iterable[Tensor]) -> int:
    """Bytes of the tensors that a forward pass keeps for its backward pass.

    Args:
        forward: computes the forward pass. What it returns is kept alive until all is counted.
        known: tensors that are not counted where autograd keeps them: weights and inputs.
    """
    known_storages = {tensor.untyped_storage().data_ptr() for tensor in known}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known_storages:
            kept[storage.data_ptr()] = storage.nbytes()
        # Not the tensor itself: a node that keeps its own output would then never be freed.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = forward()
    # Freed any earlier, a storage's address could be used again and counted once for two tensors.
    del outputs
    return sum(kept.values())


def step_flops(setup: TrainingSetup, heads: Sequence[Candidate]) -> float:
    """FLOPs (two a multiply-add) of a step's matrix products and convolutions with these heads.

    Counted on the meta device, for the step without `--compile`; on the device of the setup for a
    base that looks at values, which a CPU counts without the products within attention.
    """
    config = setup.config.model_copy(update={"compile": False})
    plain = replace(setup, config=config, autocast=False)
    try:
        return _counted_flops(replace(plain, device=torch.device("meta")), heads)
    except REFUSALS:
        return _counted_flops(plain, heads)


def _counted_flops(setup: TrainingSetup, heads: Sequence[Candidate]) -> float:
    trainer = setup.new_trainer(setup.config.coupling)
    for head in heads:
        attach(trainer, setup, head)
    crops, local = setup.random_views()
    with FlopCounterMode(display=False) as counter:
        _, losses = trainer.losses(crops.flatten(0, 1), MIDDLE, local)
        losses.total.backward()
    return float(counter.get_total_flops())


def product_rate(device: torch.device, *, autocast: bool) -> float:
    """FLOPs a second of a square matrix product, the highest of several sizes.

    The share of it that a training step reaches says how well the step uses the device.
    """
    rates = []
    for side in PRODUCT_SIDES:
        left, right = torch.randn(2, side, side, device=device).unbind()
        with mixed_precision(device, autocast):
            dtype = (left[:1] @ right).dtype
        left, right = left.to(dtype), right.to(dtype)
        product = partial(torch.matmul, left, right, out=torch.empty_like(left))
        seconds = seconds_of(product, device)
        rates.append(2 * side**3 / seconds)
        if seconds > PRODUCT_S:
            break
    return max(rates)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that work takes after one call to warm up; the mean of several calls if short."""
    count = math.ceil(AT_LEAST_S / max(_elapsed(work, 1, device), 1e-6))
    return _elapsed(work, count, device) / count


def _elapsed(work: Callable[[], object], count: int, device: torch.device) -> float:
    """Seconds that this many calls take."""
    synchronize(device)
    started = time.perf_counter()
    for _ in range(count):
        work()
    synchronize(device)
    return time.perf_counter() - started
