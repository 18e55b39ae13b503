"""`Photos`: sets of photos that random crops are cut from, held in memory or read on demand."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headsearch.config.views import ViewSettings
from headsearch.data.image.photos import PhotoReader, cut, evaluation_view
from headsearch.data.image.skipped import LeftOut
from headsearch.data.image.store import Bad, Images, ImagesOnDemand, in_worker, threads

# Shapes: B photos of a batch, V crops of each photo, S side of views in pixels, H × W of a photo.


class Photos(Images):
    """A set of photos. `batch` gives their views for evaluation, `crops` random crops."""

    @abstractmethod
    def crops(
        self, indices: Tensor, draws_VB4: Tensor, views: ViewSettings
    ) -> tuple[Tensor, list[Bad]]:
        """Random crops of photos: (V, B, 3, S, S) uint8 on the CPU, and the bad photos it met.

        Args:
            indices: (B,) int64 indices of photos of this set.
            draws_VB4: uniform numbers in [0, 1); see `crop_box`.
            views: scale, ratio and interpolation of the crops.
        """

    def found_bad(self, bad: Sequence[Bad]) -> None:
        """Takes note of bad photos that another process has met; raises as `Images.batch`."""


class PhotosInMemory(Photos):
    """Photos that are decoded once and held in memory, each with its own shape.

    Args:
        reader: the source and the size of views.
        indices: (N,) int64 indices of the photos in the source.
        photos: N arrays (H, W, 3) uint8, as the reader stores them.
    """

    def __init__(
        self, reader: PhotoReader, indices: Tensor, photos: Sequence[NDArray[np.uint8]]
    ) -> None:
        assert len(photos) == len(indices)
        source = reader.source
        labels = None if source.labels is None else source.labels[indices]
        super().__init__(source.name, reader.size, labels, source.classes)
        self._photos = photos
        self._pool = ThreadPoolExecutor(threads())

    def __len__(self) -> int:
        return len(self._photos)

    def batch(self, indices: Tensor) -> Tensor:
        photos = (self._photos[index] for index in indices.tolist())
        views = self._pool.map(partial(evaluation_view, size=self.image_size), photos)
        return torch.from_numpy(np.stack(list(views)))

    def crops(
        self, indices: Tensor, draws_VB4: Tensor, views: ViewSettings
    ) -> tuple[Tensor, list[Bad]]:
        def of_one(index: int, draws_V4: NDArray[np.float64]) -> NDArray[np.uint8]:
            return cut(self._photos[index], self.image_size, draws_V4, views)

        draws_BV4 = draws_VB4.double().numpy().transpose(1, 0, 2)
        mapped = map if in_worker() else self._pool.map
        crops = list(mapped(of_one, indices.tolist(), draws_BV4))
        return torch.from_numpy(np.stack(crops, axis=1)), []


class PhotosOnDemand(ImagesOnDemand, Photos):
    """Photos that are read and decoded whenever they are requested; see `ImagesOnDemand`.

    Args:
        reader: the source and the size of views.
        indices: (N,) int64 indices of the photos in the source.
        left_out: collects the bad files.
        bad: names of files that are left out already.
    """

    def __init__(
        self, reader: PhotoReader, indices: Tensor, left_out: LeftOut, bad: Sequence[str] = ()
    ) -> None:
        super().__init__(reader.source, indices, reader.size, left_out, bad, reader.evaluated)
        self._reader = reader

    def crops(
        self, indices: Tensor, draws_VB4: Tensor, views: ViewSettings
    ) -> tuple[Tensor, list[Bad]]:
        draws_BV4 = draws_VB4.double().numpy().transpose(1, 0, 2)
        reads = (partial(self._reader.crops, draws_V4=draws, views=views) for draws in draws_BV4)
        known = set(self.replaced)
        crops = torch.from_numpy(np.stack(self.read_each(indices, reads), axis=1))
        return crops, [each for each in self.replaced.items() if each[0] not in known]

    def found_bad(self, bad: Sequence[Bad]) -> None:
        for index, reason in bad:
            self.replace(index, reason)
        self.check()
