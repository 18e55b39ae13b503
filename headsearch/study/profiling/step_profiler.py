"""What a training step takes, in time and memory: with the whole base, or on given features.

Shapes: B images; crops of a step stand as (2B, C, S, S).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from headsearch.config.settings import ImagesPerHead
from headsearch.data import Data
from headsearch.data.loader import Loader
from headsearch.device import mixed_precision, synchronize
from headsearch.models.bases import Base, BaseOutput
from headsearch.models.network import Network
from headsearch.models.space import Candidate
from headsearch.training.schedules import StepPosition
from headsearch.training.setup import TrainingSetup, attach
from headsearch.training.trainer import Trainer

AT_LEAST_S = 0.2
"""Work shorter than this is timed as several in a row."""
PRODUCT_SIDES, PRODUCT_S = (1024, 2048, 4096, 8192), 0.02
"""Sides of square matrices in growing order, and the seconds of a product after which none larger
is tried: it is at the device's rate."""
MIDDLE = StepPosition(50, 100)
"""The moment that every step is timed at: nothing is frozen any more, nothing is over."""


@dataclass(frozen=True)
class Size:
    """What a base or a head holds in training.

    Attributes:
        params: numbers that are trained, its norm and projection included.
        kept: bytes that a step's forward keeps for the backward, weights apart.
    """

    params: float
    kept: float

    def seeing(self, share: float) -> Size:
        """The same where only so much of a step's images is seen."""
        return Size(self.params, share * self.kept)


class StepMeter:
    """Measures steps of the trainer that a search uses, on random crops that lie ready.

    A step is all that `Trainer.step` does: forward and backward of base and heads over both crops,
    the teacher's forward where the objective has one, clipping, the update, the teacher's move.
    Data and augmentation come before it and are not in it.

    Args:
        ground: what is trained.
    """

    def __init__(self, setup: TrainingSetup) -> None:
        self._setup = setup
        config, device, side = setup.config, setup.device, setup.plan.image_size
        generator = torch.Generator().manual_seed(config.seed)
        shape = (2, config.batch_size, 3, side, side)
        self._crops = torch.randn(shape, generator=generator).to(device)
        self._whole = setup.new_trainer(config.coupling)
        self._features = self._features_of_crops()
        self._given = self._on_given_features()

    def joint(self, heads: Sequence[Candidate]) -> float:
        """Seconds of a step of the base with these heads, or with none, as a search takes it."""
        return self._seconds(self._whole, heads, self._setup.config.images_per_head)

    def solo(self, head: Candidate) -> float:
        """Seconds of a step of the base with this head, which sees all images."""
        return self._seconds(self._whole, [head], "all")

    def crops(self) -> float:
        """Seconds that the crops of a step take: images read or decoded, and augmented."""
        setup = self._setup

        def make() -> None:
            # A loader anew, so that nothing was read ahead.
            Loader(setup.data.train, setup.config, setup.device).crops(setup.steps - 1)

        return seconds_of(make, setup.device)

    def own(self, head: Candidate, images: ImagesPerHead = "all") -> float:
        """Seconds that a head adds to a step by itself, where the base's features are given.

        The difference of two steps on given features, with the head and without: all that is the
        head's own. That is its forward and backward over both crops with its norm, its projection
        and its losses (the base's toward it as well), the gradient toward the base's features
        (in `joint` coupling), its teacher's forward where the objective has one, and its share of
        clipping, update and teacher's move.

        Args:
            images: how many of the step's images the head sees.
        """
        without = self._seconds(self._given, [], "all")
        return max(0.0, self._seconds(self._given, [head], images) - without)

    def scoring(self, heads: Sequence[Candidate], data: Data) -> float:
        """Seconds that it takes to score the base with these heads on these images, once."""
        network = self._with(self._whole, heads).teacher.network
        setup = replace(self._setup, data=data)
        return _passed(lambda: setup.scores(network), 1, setup.device)

    def size_of_base(self) -> Size:
        """What the base holds without heads."""
        trainer = self._with(self._whole, [])
        parameters = (parameter for _, parameter in trainer.student.base_parameters())
        return Size(_numbers(parameters), self._kept(trainer))

    def size_of(self, head: Candidate) -> Size:
        """What a head that sees all images adds to that, where the base's features are given."""
        without = self._kept(self._with(self._given, []))
        trainer = self._with(self._given, [head])
        numbers = _numbers(trainer.student.heads[head.name].parameters())
        return Size(numbers, max(0, self._kept(trainer) - without))

    def _seconds(
        self, trainer: Trainer, heads: Sequence[Candidate], images: ImagesPerHead
    ) -> float:
        """Seconds of a step with these heads attached and no others."""
        self._with(trainer, heads, images)
        while not trainer.settled:
            trainer.step(self._crops, MIDDLE)
        return seconds_of(lambda: trainer.step(self._crops, MIDDLE), self._setup.device)

    def _kept(self, trainer: Trainer) -> int:
        """Bytes that the forward of a step keeps for its backward, but for what is given."""
        maps, *summaries = self._features
        given = (*maps.values(), *summaries, self._crops, *trainer.student.state_dict().values())
        known = {tensor.untyped_storage().data_ptr() for tensor in given}
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor.detach()  # itself, where a node keeps its own output, would live forever

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            features, losses = trainer.losses(self._crops.flatten(0, 1), MIDDLE)
        del features, losses  # alive until here, so that no storage came twice
        return sum(kept.values())

    def _with(
        self, trainer: Trainer, heads: Sequence[Candidate], images: ImagesPerHead = "all"
    ) -> Trainer:
        """A trainer with these heads attached and no others, each seeing so many images."""
        trainer.images_per_head = images
        wanted = {head.name for head in heads}
        for name in trainer.student.heads.keys() - wanted:
            trainer.detach(name)
        for head in heads:
            if head.name not in trainer.student.heads:
                attach(trainer, self._setup, head)
        return trainer

    def _features_of_crops(self) -> BaseOutput:
        """What the base makes of the crops, at every place that a head may take."""
        setup, base = self._setup, self._whole.student.base.train()
        feature_indices = range(len(setup.plan.stages))
        with torch.no_grad(), mixed_precision(setup.device, setup.autocast):
            features: BaseOutput = base(self._crops.flatten(0, 1), feature_indices=feature_indices)
        return features

    def _on_given_features(self) -> Trainer:
        """A trainer whose base costs nothing: it gives those features."""
        setup = self._setup
        projection = setup.objective.base_projection(setup.plan)
        base = cast(Base, _GivenFeatures(self._features))
        return Trainer(
            Network(base, projection, setup.config.coupling),
            setup.objective,
            setup.config,
            setup.device,
            autocast=setup.autocast,
        )


class _GivenFeatures(nn.Module):
    """Stands in for a base: gives the same features whatever the images."""

    def __init__(self, features: BaseOutput) -> None:
        super().__init__()
        self._features = features

    def forward(
        self,
        images_BCSS: Tensor,
        mask_BHW: Tensor | None = None,
        feature_indices: Sequence[int] = (0,),
    ) -> BaseOutput:
        # Fresh leaves: gradients are computed up to here, as in training, and dropped.
        given = self._features
        return BaseOutput(
            {
                feature_index: _leaf(given.maps_BDHW[feature_index])
                for feature_index in feature_indices
            },
            _leaf(given.tokens_BND),
            _leaf(given.pooled_BD),
        )


def _leaf(features: Tensor) -> Tensor:
    return features.detach().requires_grad_(torch.is_grad_enabled())


def _numbers(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def step_flops(setup: TrainingSetup, heads: Sequence[Candidate]) -> float:
    """FLOPs (two a multiply-add) of the products and convolutions of a step with these heads.

    Counted on the meta device, as the step is without compiling.
    """
    meta, side = torch.device("meta"), setup.plan.image_size
    config = setup.config.model_copy(update={"compile": False})
    counted = replace(setup, config=config, device=meta, autocast=False)
    trainer = counted.new_trainer(config.coupling)
    for head in heads:
        attach(trainer, counted, head)
    crops = torch.empty(2 * config.batch_size, 3, side, side, device=meta)
    with FlopCounterMode(display=False) as counter:
        _, losses = trainer.losses(crops, MIDDLE)
        losses.total.backward()
    return float(counter.get_total_flops())


def product_rate(device: torch.device, *, autocast: bool) -> float:
    """FLOPs a second of a matrix product alone, the most of several sizes.

    How much of it a step reaches says how well it uses the device.
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
    """What work takes in seconds, after once to warm up; the mean of several if it is short."""
    count = math.ceil(AT_LEAST_S / max(_passed(work, 1, device), 1e-6))
    return _passed(work, count, device) / count


def _passed(work: Callable[[], object], count: int, device: torch.device) -> float:
    """Seconds that pass while work is done so many times."""
    synchronize(device)
    started = time.perf_counter()
    for _ in range(count):
        work()
    synchronize(device)
    return time.perf_counter() - started
