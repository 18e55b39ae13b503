"""The crops of each step, on the training device.

Shapes: B images, C = 3 channels, S image side; crops of a step stand as (2, B, C, S, S).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from headsearch import torchrun
from headsearch.config.recipes import find_recipe
from headsearch.config.settings import RunConfig
from headsearch.data import Images, ViewSettings, epoch_order, make_views
from headsearch.device import staged
from headsearch.seeding import seeded_generator


def batches(
    images: Images, config: RunConfig, steps: Iterable[int], device: torch.device
) -> Iterator[Tensor]:
    """Two crops of each image, (2, B, C, S, S), a batch a step, on the training device.

    Order and augmentation of a step are fixed by the seed and the step's number alone, and each
    rank has those of its own images. The images of the next step are read, or decoded, while the
    device works on those of this one.
    """
    per_epoch = steps_per_epoch(images, config)
    settings = ViewSettings(crop_scale=find_recipe(config.recipe).crop_scale)

    def read(step: int) -> Tensor:
        epoch, place = divmod(step, per_epoch)
        order = epoch_order(len(images), epoch, config.seed)
        chosen = order[place * config.batch_size : (place + 1) * config.batch_size]
        own = chosen.chunk(torchrun.count())[torchrun.rank()]
        return staged(images.batch(own), device)

    for step, batch in read_ahead(read, steps):
        generator = seeded_generator(config.seed, "views", step, device=device)
        part = (torchrun.rank(), torchrun.count())
        yield make_views(batch.to(device, non_blocking=True), generator, settings, part=part)


def read_ahead(read: Callable[[int], Tensor], steps: Iterable[int]) -> Iterator[tuple[int, Tensor]]:
    """Each step with what is read for it, the next one's in a thread meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as ahead:
        coming: deque[tuple[int, Future[Tensor]]] = deque()
        for step in steps:
            coming.append((step, ahead.submit(read, step)))
            if len(coming) == 2:
                before, found = coming.popleft()
                yield before, found.result()
        while coming:
            step, found = coming.popleft()
            yield step, found.result()


def steps_per_epoch(images: Images, config: RunConfig) -> int:
    """Whole batches in an epoch; a last partial one is left out."""
    return max(1, len(images) // config.batch_size)
