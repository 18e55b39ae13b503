"""The training loader: two augmented crops of each image of a step, on the training device.

Shapes: B images, C = 3 channels, S image side; crops of a step are (2, B, C, S, S).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from headsearch import torchrun
from headsearch.config import normalization
from headsearch.config.recipes import find_recipe
from headsearch.config.settings import RunConfig
from headsearch.data.image.store import Images
from headsearch.data.image.views import ViewSettings, make_views
from headsearch.data.order import epoch_order
from headsearch.device import staged
from headsearch.seeding import seeded_generator


class Loader:
    """Gives the crops of any training step.

    The images of a step and their augmentation depend on the seed and the number of the step alone,
    so that training can resume at any step. In a job of several processes, each loads its own
    images of every step.

    Args:
        images: the training images.
        config: gives batch size, epochs, seed, normalisation and the recipe's crop scale.
        device: the device that the crops are made on.

    Attributes:
        steps: the number of steps of the whole training.
    """

    def __init__(self, images: Images, config: RunConfig, device: torch.device) -> None:
        self._images, self._device = images, device
        self._batch_size, self._seed = config.batch_size, config.seed
        self._normalization = normalization.parse(config.normalization)
        self._views = ViewSettings(crop_scale=find_recipe(config.recipe).crop_scale)
        self._per_epoch = steps_per_epoch(images, config)
        self.steps = config.epochs * self._per_epoch
        self._order: tuple[int, Tensor] | None = None
        self._batches = ReadAhead(self.steps)

    def crops(self, step: int) -> Tensor:
        """Two crops of each image of a step: (2, B, C, S, S), float32, on the training device."""
        batch = self._batches.get(step, self._read).to(self._device, non_blocking=True)
        generator = seeded_generator(self._seed, "views", step, device=self._device)
        part = (torchrun.rank(), torchrun.count())
        return make_views(
            batch, generator, self._views, part=part, normalization=self._normalization
        )

    def _read(self, step: int) -> Tensor:
        """The images of a step that this process trains on, in pinned memory for CUDA."""
        epoch, index = divmod(step, self._per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, epoch_order(len(self._images), epoch, self._seed)
        chosen = self._order[1][index * self._batch_size : (index + 1) * self._batch_size]
        local = chosen.chunk(torchrun.count())[torchrun.rank()]
        return staged(self._images.batch(local), self._device)


class ReadAhead:
    """Reads the images of the next step in a thread, while the device works on the current step.

    Args:
        steps: the number of steps; nothing is read beyond the last one.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        # One thread: batches are read one after the other, and only one waits in memory.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._pending: dict[int, Future[Tensor]] = {}

    def get(self, step: int, read: Callable[[int], Tensor]) -> Tensor:
        """The images of a step. Raises the error that occurred while they were read, if any.

        Args:
            read: returns the images of a step; it is called only in the thread. It is not kept, so
                that a loader, and its thread with it, is freed with its last reference.
        """
        # If training went back to an earlier step, the images read ahead are not needed: drop them.
        wanted = self._pending.get(step) or self._thread.submit(read, step)
        self._pending = {}
        if step + 1 != self._steps:
            self._pending[step + 1] = self._thread.submit(read, step + 1)
        return wanted.result()


def steps_per_epoch(images: Images, config: RunConfig) -> int:
    """The number of steps in an epoch. A last, smaller batch is left out; there is at least one."""
    return max(1, len(images) // config.batch_size)
