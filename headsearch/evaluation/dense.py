"""Dense scores of the base and of every head, and what they are compared with.

The images of the dense data go through the base twice: the training images to collect sampled
patches, the evaluation images to be scored. Each time all heads of a group see the base's maps of a
batch, so that the base runs once for them.

Shapes: B images, S side of an image, D width, H × W a grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headsearch.config.normalization import IMAGENET, Normalization
from headsearch.data.dense import DenseData, DenseImages
from headsearch.data.image.views import normalize
from headsearch.device import mixed_precision
from headsearch.evaluation.proxies.dense_task import DenseTask, Fitted
from headsearch.evaluation.proxies.detection import Detection
from headsearch.evaluation.proxies.grids import (
    pixel_map,
    position_map,
    queries_on,
    samples_on,
)
from headsearch.evaluation.proxies.grouped_scores import GroupedScores, grouped_scores, reporting
from headsearch.evaluation.proxies.instances import InstanceMasks
from headsearch.evaluation.proxies.regions import Regions
from headsearch.evaluation.proxies.segmentation import Segmentation, ceiling, scored_images
from headsearch.models.network import BASE, AttachedHead, Network, failing_as

KEPT_CPU, KEPT_ACCELERATOR = 2**26, 2**30
"""At most so many numbers of sampled patches are held in memory: 256 MiB, 4 GiB. If the heads need
more, they are scored in groups, and the base processes the images once per group."""
SMALL_GRID = 8
"""Grids with shorter sides are warned about: things are smaller than their patches."""
MOST_PROXIES = 4

Grid = tuple[int, int]
MapsOf = Callable[[Tensor], Mapping[str, Tensor]]
"""From images (B, 3, S, S) uint8 to the maps (B, D, H, W) of some representations, by name."""


@dataclass
class DenseScorer:
    """The dense proxies of one data set.

    What depends on the grid alone (sampled patches, targets) is made once for each grid.

    Attributes:
        data: the images and annotations.
        device: of the network.
        batch_size: images in a forward pass.
    """

    data: DenseData
    device: torch.device
    batch_size: int
    _tasks: dict[Grid, list[DenseTask]] = field(default_factory=dict)

    def tasks(self, grid: Grid) -> list[DenseTask]:
        """The proxies that the data allow on a grid."""
        if grid not in self._tasks:
            self._tasks[grid] = self._made(grid)
        return self._tasks[grid]

    def _made(self, grid: Grid) -> list[DenseTask]:
        data, device, samples = self.data, self.device, samples_on(self.device)
        train, evaluation, group_N = data.train, data.evaluation, data.group_N
        tasks: list[DenseTask] = []
        if train.masks is not None and evaluation.masks is not None:
            classes = len(data.mask_classes)
            both_masks = train.masks, evaluation.masks
            tasks.append(
                Segmentation(
                    *both_masks, group_N, classes, grid, samples, device, queries_on(device)
                )
            )
        if train.objects is None or evaluation.objects is None:
            return tasks
        both = train.objects, evaluation.objects
        if len(data.box_classes) > 1:
            tasks.append(Regions(*both, group_N, len(data.box_classes), grid, samples, device))
        detection = Detection(*both, group_N, data.box_classes, grid, samples, device)
        if detection.possible:
            tasks.append(detection)
        if data.has_instance_masks:
            masks = InstanceMasks(*both, group_N, grid, samples, device)
            if masks.possible:
                tasks.append(masks)
        return tasks

    def columns(self, grid: Grid) -> tuple[str, ...]:
        """The scores that the data give on a grid, by their columns."""
        return tuple(name for task in self.tasks(grid) for name in task.columns)

    @torch.no_grad()
    def scores(
        self, maps_of: MapsOf, on_share: Callable[[float], object] = lambda _: None
    ) -> dict[str, GroupedScores]:
        """The scores of some representations, by name.

        Args:
            maps_of: gives their maps; it is called with batches of the training images, then of
                the evaluation images.
            on_share: called after each batch with its share of all images.
        """
        total = len(self.data.train) + len(self.data.evaluation)
        rows: dict[str, list[list[Tensor]]] = {}
        grids: dict[str, Grid] = {}
        for images, pixels in _batches(self.data.train, self.batch_size):
            for name, map_BDHW in maps_of(pixels).items():
                grids[name] = (map_BDHW.shape[2], map_BDHW.shape[3])
                tasks = self.tasks(grids[name])
                kept = rows.setdefault(name, [[] for _ in tasks])
                for task, parts in zip(tasks, kept, strict=True):
                    parts.append(task.rows(map_BDHW, images))
            on_share(len(images) / total)
        fitted: dict[str, list[Fitted]] = {}
        for name, grid in grids.items():
            kept_rows = [torch.cat(parts) for parts in rows.pop(name)]
            finite = all(bool(each.isfinite().all()) for each in kept_rows)
            # A representation that diverged has no scores; its rank shows it to be set aside.
            fitted[name] = [
                task.fit(each)
                for task, each in zip(self.tasks(grid), kept_rows, strict=True)
                if finite
            ]
        for images, pixels in _batches(self.data.evaluation, self.batch_size):
            for name, map_BDHW in maps_of(pixels).items():
                for each in fitted[name]:
                    each.observe(map_BDHW, images)
            on_share(len(images) / total)
        return {
            name: grouped_scores({k: v for each in of for k, v in each.statistics().items()})
            for name, of in fitted.items()
        }

    def baselines(
        self, grid: Grid, normalization: Normalization = IMAGENET
    ) -> dict[str, GroupedScores]:
        """The scores of position alone and of raw pixels on a grid."""

        def maps_of(pixels: Tensor) -> dict[str, Tensor]:
            images = normalize(pixels.to(self.device), normalization)
            return {
                "position": position_map(len(pixels), grid).to(self.device),
                "pixels": pixel_map(images, grid),
            }

        return self.scores(maps_of)

    def ceiling(self, grid: Grid) -> float | None:
        """The mIoU that the grid itself allows, on the reported images; None without masks."""
        masks = self.data.evaluation.masks
        if masks is None:
            return None
        scored_N = scored_images(len(masks), grid, queries_on(self.device))
        kept_N = reporting(self.data.group_N) & scored_N
        return ceiling(masks, len(self.data.mask_classes), grid, kept_N)

    def of_network(
        self,
        network: Network,
        names: Sequence[str],
        *,
        autocast: bool,
        normalization: Normalization = IMAGENET,
        on_share: Callable[[float], object] = lambda _: None,
    ) -> dict[str, GroupedScores]:
        """The scores of the base (`BASE`) and of some heads of a network in evaluation mode.

        The base is scored by its last tokens after its final norm, a head by its tokens after its
        own norm.
        """
        found: dict[str, GroupedScores] = {}
        groups = self._groups({name: network.heads[name] for name in names})
        for group in groups:
            maps = _Maps(network, group, self.device, autocast, normalization, BASE not in found)
            found |= self.scores(maps, lambda share: on_share(share / len(groups)))
        return found

    def _groups(self, heads: Mapping[str, AttachedHead]) -> list[list[str]]:
        """Groups of heads whose sampled patches fit into memory; one empty group without heads."""
        widest = max((head.norm.weight.numel() for head in heads.values()), default=1)
        proxies = 1 if not self.data.box_classes else MOST_PROXIES
        kept = KEPT_CPU if self.device.type == "cpu" else KEPT_ACCELERATOR
        numbers = proxies * samples_on(self.device) * widest
        names, at_once = list(heads), max(1, kept // numbers)
        return [names[begin : begin + at_once] for begin in range(0, len(names), at_once)] or [[]]


@dataclass(frozen=True)
class _Maps:
    """The maps of the base and of some heads for a batch of images."""

    network: Network
    names: Sequence[str]
    device: torch.device
    autocast: bool
    normalization: Normalization
    with_base: bool

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        images = normalize(pixels.to(self.device), self.normalization)
        with mixed_precision(self.device, self.autocast):
            base = self.network.base(images, feature_indices=self.network.feature_indices)
        maps = {}
        if self.with_base:
            maps[BASE] = _as_map(base.tokens_BND, base.maps_BDHW[0])
        for name in self.names:
            head = self.network.heads[name]
            map_BDHW = base.maps_BDHW[head.feature_index]
            with failing_as(name, map_BDHW), mixed_precision(self.device, self.autocast):
                maps[name] = _as_map(head(map_BDHW), map_BDHW)
        return maps


def _as_map(tokens_BND: Tensor, like_BDHW: Tensor) -> Tensor:
    """Tokens as a map on the grid of another one."""
    return tokens_BND.transpose(1, 2).reshape(len(like_BDHW), -1, *like_BDHW.shape[2:])


def _batches(images: DenseImages, size: int) -> Sequence[tuple[range, Tensor]]:
    """Batches of images in their order, with their numbers."""
    return [
        (range(begin, min(begin + size, len(images))), images.pixels[begin : begin + size])
        for begin in range(0, len(images), size)
    ]
