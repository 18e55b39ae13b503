"""The training loader: augmented crops of each image of a step, on the training device.

Shapes: B images, V = 2 views of each, C = 3 channels, S image side; crops of a step are
(V, B, C, S, S), those of clips (V, B, 1, H, W). With multi-crop there are L smaller, local crops of
each image besides.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headsearch import torchrun
from headsearch.config import normalization
from headsearch.config.settings import RunConfig
from headsearch.config.views import VIEWS, ViewSettings
from headsearch.data.domain import Views
from headsearch.data.domains import domain_of
from headsearch.data.image.photo_sets import Photos
from headsearch.data.image.photos import Cut
from headsearch.data.image.store import Images
from headsearch.data.image.views import finish_views
from headsearch.data.order import epoch_order
from headsearch.data.workers import StepRead, WorkerReads, worker_count
from headsearch.device import staged
from headsearch.seeding import seeded_generator

AHEAD = 4
"""How many steps are read ahead where images are decoded or cropped in every step."""


Read = TypeVar("Read")


class StepViews(NamedTuple):
    """What a step trains on, float32 on the training device.

    Attributes:
        crops: two crops of each image, (V, B, C, S, S).
        local: the local crops, (L, B, C, s, s); None without multi-crop.
    """

    crops: Tensor
    local: Tensor | None


class Loader:
    """Gives the crops of any training step.

    The images of a step and their augmentation depend on the seed and the number of the step alone,
    so that training can resume at any step, and the number of threads or processes that read images
    changes nothing. In a job of several processes, each loads its own images of every step.

    Args:
        images: the training images.
        config: gives batch size, epochs, seed, normalisation, views and worker processes.
        device: the device that the crops are made on.

    Attributes:
        steps: the number of steps of the whole training.
    """

    def __init__(self, images: Images, config: RunConfig, device: torch.device) -> None:
        self._images, self._device, self._seed = images, device, config.seed
        self._normalization = normalization.parse(config.normalization)
        self._domain = domain_of(config)
        self._views = self._domain.views(config, images.shape)
        self.steps = config.epochs * steps_per_epoch(images, config)
        self._waited_s = 0.0
        self._reader = StepReader(images, config, self._views)
        self._workers: WorkerReads | None = None
        # Small images in memory cost so little that one step ahead is enough.
        copied = images.in_memory and not isinstance(images, Photos)
        self._batches: ReadAhead[list[Tensor]] = ReadAhead(self.steps, 1 if copied else AHEAD)
        self._local_side = 0
        if isinstance(self._views, ViewSettings):
            self._local_side = self._views.local_side(images.image_size)
        if isinstance(images, Photos):
            pixels = VIEWS * images.image_size**2 + self._views.local_views * self._local_side**2
            count = worker_count(config.workers, config.batch_size * 3 * pixels)
            if count:
                pinned = device.type == "cuda"
                self._workers = WorkerReads(self._reader.photos, self.steps, count, pinned=pinned)

    def crops(self, step: int) -> Tensor:
        """Two crops of each image of a step: (V, B, C, S, S), float32, on the training device."""
        return self.views(step).crops

    def views(self, step: int) -> StepViews:
        """The crops of each image of a step, and the local ones if there are any."""
        began = time.perf_counter()
        read = self._read(step)
        self._waited_s += time.perf_counter() - began
        crops = self._made_of(read[0], self._views, "views", step, VIEWS, self._images.image_size)
        if not isinstance(self._views, ViewSettings) or not self._views.local_views:
            return StepViews(crops, None)
        views, count = self._views.of_local_views, self._views.local_views
        local = self._made_of(read[-1], views, "local views", step, count, self._local_side)
        return StepViews(crops, local)

    def _made_of(
        self, read: Tensor, views: Views, purpose: str, step: int, count: int, side: int
    ) -> Tensor:
        """Augmented crops of what was read of a step, on the training device.

        Args:
            read: of photos the crops (V, B, C, S, S), else the images (B, C, S, S), uint8.
            views: the augmentations.
            purpose: what the random numbers are for.
            step: the step.
            count, side: the number of crops of each image, and their side in pixels.
        """
        batch = read.to(self._device, non_blocking=True)
        generator = seeded_generator(self._seed, purpose, step, device=self._device)
        part, scale = (torchrun.rank(), torchrun.count()), self._normalization
        if isinstance(self._images, Photos):
            assert isinstance(views, ViewSettings)
            return finish_views(batch, generator, views, part, scale)
        return self._domain.make_views(batch, generator, views, count, part, scale, side)

    def take_waited_s(self) -> float:
        """The seconds that training has waited for images since this was last asked."""
        waited, self._waited_s = self._waited_s, 0.0
        return waited

    def _read(self, step: int) -> list[Tensor]:
        """What was read of a step: of photos each kind of crops, else the images (B, C, S, S).

        They are uint8 on the CPU, in pinned memory for CUDA.
        """
        if not isinstance(self._images, Photos):
            return self._batches.get(step, self._staged_images)
        if self._workers is None:
            return self._batches.get(step, self._staged_photos)
        read = self._workers.get(step)
        self._images.found_bad(read.bad)
        return read.crops

    def _staged_images(self, step: int) -> list[Tensor]:
        return [staged(self._reader.images(step), self._device)]

    def _staged_photos(self, step: int) -> list[Tensor]:
        return [staged(crops, self._device) for crops in self._reader.photos(step).crops]


class StepReader:
    """Reads the images of a step that this process trains on.

    Args:
        images: the training images.
        config: gives batch size and seed.
        views: how crops are cut from photos.
    """

    def __init__(self, images: Images, config: RunConfig, views: Views) -> None:
        self._images, self._views = images, views
        self._batch_size, self._seed = config.batch_size, config.seed
        self._per_epoch = steps_per_epoch(images, config)
        self._order: tuple[int, Tensor] | None = None

    def images(self, step: int) -> Tensor:
        """The whole images of a step, (B, C, S, S) uint8."""
        return self._images.batch(self._indices(step))

    def photos(self, step: int) -> StepRead:
        """The crops of the photos of a step."""
        assert isinstance(self._images, Photos)
        indices, views, size = self._indices(step), self._views, self._images.image_size
        assert isinstance(views, ViewSettings)

        def drawn(purpose: str, count: int) -> NDArray[np.float64]:
            # Numbers for the whole batch are drawn on every rank, which keeps those of its part.
            generator = seeded_generator(self._seed, purpose, step)
            shape = (count, torchrun.count(), len(indices), 4)
            draws = torch.rand(shape, generator=generator, dtype=torch.float64)
            return draws[:, torchrun.rank()].numpy()

        cuts = [Cut(size, drawn("boxes", VIEWS), views)]
        if views.local_views:
            draws = drawn("local boxes", views.local_views)
            cuts.append(Cut(views.local_side(size), draws, views.of_local_views))
        return StepRead(*self._images.crops(indices, cuts))

    def _indices(self, step: int) -> Tensor:
        """The images (B,) of a step that this process trains on."""
        epoch, index = divmod(step, self._per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, epoch_order(len(self._images), epoch, self._seed)
        chosen = self._order[1][index * self._batch_size : (index + 1) * self._batch_size]
        return chosen.chunk(torchrun.count())[torchrun.rank()]


class ReadAhead(Generic[Read]):
    """Reads the images of the next steps in a thread, while the device works on the current step.

    Args:
        steps: the number of steps; nothing is read beyond the last one.
        ahead: how many steps are read ahead, and wait in memory.
    """

    def __init__(self, steps: int, ahead: int = 1) -> None:
        self._steps, self._ahead = steps, ahead
        # One thread: batches are read one after the other, each of them in parallel.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._pending: dict[int, Future[Read]] = {}

    def get(self, step: int, read: Callable[[int], Read]) -> Read:
        """The images of a step. Raises the error that occurred while they were read, if any.

        Args:
            read: returns the images of a step; it is called only in the thread. It is not kept, so
                that a loader, and its thread with it, is freed with its last reference.
        """
        wanted = range(step, min(step + self._ahead + 1, self._steps))
        # If training went back to an earlier step, the images read ahead are not needed: drop them.
        for other in self._pending.keys() - set(wanted):
            self._pending.pop(other).cancel()
        for each in wanted:
            if each not in self._pending:
                self._pending[each] = self._thread.submit(read, each)
        return self._pending.pop(step).result()


def steps_per_epoch(images: Images, config: RunConfig) -> int:
    """The number of steps in an epoch. A last, smaller batch is left out; there is at least one."""
    return max(1, len(images) // config.batch_size)
