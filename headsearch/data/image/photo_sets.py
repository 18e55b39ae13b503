"""`Photos`: sets of photos that random crops are cut from, held in memory or read on demand."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headsearch.config.input_shape import InputShape
from headsearch.data.image.photos import Cut, PhotoReader, cut_out, evaluation_view
from headsearch.data.image.skipped import LeftOut
from headsearch.data.image.store import Bad, Images, ImagesOnDemand, in_worker
from headsearch.device import cores_here

# Shapes: B photos of a batch, V crops of each photo, S side of views in pixels, H × W of a photo.


class Photos(Images):
    """A set of photos. `batch` gives their views for evaluation, `crops` random crops."""

    @abstractmethod
    def crops(self, indices: Tensor, cuts: Sequence[Cut]) -> tuple[list[Tensor], list[Bad]]:
        """Random crops of photos, and the bad photos it met.

        Args:
            indices: (B,) int64 indices of photos of this set.
            cuts: the kinds of crops, with draws (V, B, 4).

        Returns:
            For each kind (V, B, 3, S, S) uint8 on the CPU.
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
        super().__init__(source.name, InputShape.square(reader.size), labels, source.classes)
        self._photos = photos
        self._pool = ThreadPoolExecutor(cores_here())

    def __len__(self) -> int:
        return len(self._photos)

    def batch(self, indices: Tensor) -> Tensor:
        photos = (self._photos[index] for index in indices.tolist())
        views = self._pool.map(partial(evaluation_view, size=self.image_size), photos)
        return torch.from_numpy(np.stack(list(views)))

    def crops(self, indices: Tensor, cuts: Sequence[Cut]) -> tuple[list[Tensor], list[Bad]]:
        def of_one(at: int, index: int) -> list[NDArray[np.uint8]]:
            return [cut_out(self._photos[index], cut.of(at)) for cut in cuts]

        mapped = map if in_worker() else self._pool.map
        return _stacked(mapped(of_one, count(), indices.tolist())), []


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
        shape = InputShape.square(reader.size)
        super().__init__(reader.source, indices, shape, reader.evaluated, left_out, bad)
        self._reader = reader

    def crops(self, indices: Tensor, cuts: Sequence[Cut]) -> tuple[list[Tensor], list[Bad]]:
        reads = (
            partial(self._reader.crops, cuts=[cut.of(at) for cut in cuts])
            for at in range(len(indices))
        )
        known = set(self.replaced)
        crops = _stacked(self.read_each(indices, reads))
        return crops, [each for each in self.replaced.items() if each[0] not in known]

    def found_bad(self, bad: Sequence[Bad]) -> None:
        for index, reason in bad:
            self.replace(index, reason)
        self.check()


def _stacked(of_photos: Iterable[list[NDArray[np.uint8]]]) -> list[Tensor]:
    """The crops (V, 3, S, S) of each photo as (V, B, 3, S, S), for each kind of crops."""
    kinds = zip(*of_photos, strict=True)
    return [torch.from_numpy(np.stack(of_kind, axis=1)) for of_kind in kinds]
