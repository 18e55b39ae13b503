"""What a training step takes on this machine: with the whole base, or on features that are given.

Shapes: B images; crops of a step stand as (2B, C, S, S).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from headsearch.bases import Base, BaseOutput
from headsearch.ground import Ground
from headsearch.machine import mixed_precision, synchronize
from headsearch.model import Network
from headsearch.schedules import Moment
from headsearch.solo import attach
from headsearch.space import Candidate
from headsearch.train import Trainer, batches

AT_LEAST_S = 0.2
"""Steps shorter than this are timed as several in a row."""
MIDDLE = Moment(50, 100)
"""The moment that every step is timed at: nothing is frozen any more, nothing is over."""


class StepTimer:
    """Times steps of the trainer that a search uses, on random crops that lie ready.

    A step is all that `Trainer.step` does: forward and backward of base and heads over both crops,
    the teacher's forward where the objective has one, clipping, the update, the teacher's move.
    Data and augmentation come before it and are not in it.

    Args:
        ground: what is trained.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        config, device, side = ground.config, ground.device, ground.plan.image_size
        generator = torch.Generator().manual_seed(config.seed)
        shape = (2, config.batch_size, 3, side, side)
        self._crops = torch.randn(shape, generator=generator).to(device)
        self._whole = ground.new_trainer(config.coupling)
        self._given = self._on_given_features()

    def joint(self, heads: Sequence[Candidate]) -> float:
        """Seconds of a step of the base with these heads, or with none."""
        return self._seconds(self._whole, heads)

    def crops(self) -> float:
        """Seconds that the crops of a step take: images read or decoded, and augmented."""
        ground = self._ground

        def make() -> None:
            for _ in batches(ground.data.train, ground.config, [0], ground.device):
                pass

        return seconds_of(make, ground.device)

    def own(self, head: Candidate) -> float:
        """Seconds that a head adds to a step by itself, where the base's features are given.

        The difference of two steps on given features, with the head and without: all that is the
        head's own. That is its forward and backward over both crops with its norm, its projection
        and its losses (the base's toward it as well), the gradient toward the base's features
        (in `joint` coupling), its teacher's forward where the objective has one, and its share of
        clipping, update and teacher's move.
        """
        without = self._seconds(self._given, [])
        return max(0.0, self._seconds(self._given, [head]) - without)

    def _seconds(self, trainer: Trainer, heads: Sequence[Candidate]) -> float:
        """Seconds of a step with these heads attached and no others."""
        wanted = {head.name for head in heads}
        for name in trainer.student.heads.keys() - wanted:
            trainer.detach(name)
        for head in heads:
            if head.name not in trainer.student.heads:
                attach(trainer, self._ground, head)
        return seconds_of(lambda: trainer.step(self._crops, MIDDLE), self._ground.device)

    def _on_given_features(self) -> Trainer:
        """A trainer whose base costs nothing: it gives what the real one made of the crops."""
        ground = self._ground
        base = self._whole.student.base.train()
        places = range(len(ground.plan.stages))
        with torch.no_grad(), mixed_precision(ground.device, ground.autocast):
            features = base(self._crops.flatten(0, 1), places=places)
        projection = ground.objective.base_projection(ground.plan)
        student = Network(cast(Base, _GivenFeatures(features)), projection, ground.config.coupling)
        return Trainer(
            student, ground.objective, ground.config, ground.device, autocast=ground.autocast
        )


class _GivenFeatures(nn.Module):
    """Stands in for a base: gives the same features whatever the images."""

    def __init__(self, features: BaseOutput) -> None:
        super().__init__()
        self._features = features

    def forward(
        self, images_BCSS: Tensor, mask_BHW: Tensor | None = None, places: Sequence[int] = (0,)
    ) -> BaseOutput:
        # Fresh leaves: gradients are computed up to here, as in training, and dropped.
        given = self._features
        return BaseOutput(
            {place: _leaf(given.maps_BDHW[place]) for place in places},
            _leaf(given.tokens_BND),
            _leaf(given.pooled_BD),
        )


def _leaf(features: Tensor) -> Tensor:
    return features.detach().requires_grad_(torch.is_grad_enabled())


def seconds_of(step: Callable[[], None], device: torch.device) -> float:
    """What a step takes in seconds, after one to warm up; the mean of several short ones."""

    def passed(count: int) -> float:
        synchronize(device)
        started = time.perf_counter()
        for _ in range(count):
            step()
        synchronize(device)
        return time.perf_counter() - started

    count = math.ceil(AT_LEAST_S / max(passed(1), 1e-6))
    return passed(count) / count
