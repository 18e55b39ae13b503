"""`ImageDomain`: square colour images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor

from headsearch.config.domains import IMAGE
from headsearch.config.input_shape import InputShape
from headsearch.config.normalization import Normalization
from headsearch.config.settings import RunConfig
from headsearch.config.views import ViewSettings, views_for
from headsearch.data.domain import Domain, Views
from headsearch.data.factory import Form, Opener
from headsearch.data.file_kinds import IMAGES
from headsearch.data.image.photos import STORED
from headsearch.data.image.views import make_views
from headsearch.data.image.wide_values import NOMINAL
from headsearch.data.partition import Split
from headsearch.data.settings import DataSettings


class ImageDomain(Domain):
    """Square colour images; photos of other shapes are cut."""

    name, files = IMAGE, IMAGES
    settings = ("image_size", "store_size", "dense_data", "pretrained")

    def opener(self, settings: DataSettings, *, alone: bool) -> Opener:
        return Opener(settings, alone)

    def form(self, split: Split, settings: DataSettings, notes: list[str]) -> Form:
        image_size = settings.image_size
        if image_size is None:
            image_size = follow_size(split.train_pool.sides(), settings.max_image_size)
            notes.append(f"image size {image_size}, after the images in {split.train_pool.name}")
        scale, changes = split.train_pool.fit_values(NOMINAL)
        if split.query_pool is not split.train_pool:
            changes += split.query_pool.fit_values(scale)[1]
        notes += changes
        shape = InputShape.square(image_size)
        if not split.train_pool.holds_photos(image_size):
            return Form(shape)
        notes.append(
            f"{split.train_pool.name} holds photos: random crops are cut from the whole images, "
            "and evaluation sees the centre (224/256 of the shorter side)"
        )
        return Form(shape, settings.store_size or math.ceil(STORED * image_size))

    def resolved(self, form: Form) -> Mapping[str, Any]:
        return {}

    def shape_of(self, config: RunConfig) -> InputShape | None:
        return None if config.image_size is None else InputShape.square(config.image_size)

    def views(self, config: RunConfig, shape: InputShape) -> Views:
        return views_for(config.views, config.objective, shape.width)

    def make_views(
        self,
        batch: Tensor,
        generator: torch.Generator | None,
        views: Views,
        count: int,
        part: tuple[int, int],
        scale: Normalization,
        side: int | None = None,
    ) -> Tensor:
        return make_views(batch, generator, cast(ViewSettings, views), count, part, scale, side)


def follow_size(sides: Sequence[int], max_image_size: int) -> int:
    """The image size for images with these shorter sides: their median, rounded down to steps of 8.

    It is at least 32 and at most `max_image_size`.
    """
    return max(32, min(int(median(sides)), max_image_size) // 8 * 8)
