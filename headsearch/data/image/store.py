"""`Images`, a set of decoded images, or of log-mel maps: held in memory, or decoded on demand."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headsearch.config.input_shape import InputShape
from headsearch.data.image.decode import BadImage
from headsearch.data.image.skipped import LeftOut
from headsearch.data.image.source import Items
from headsearch.device import cores_here
from headsearch.errors import UserError

Progress = Callable[[int, int], None]
"""A function `progress(done, total)` of numbers of images, called from the calling thread."""

MEMORY_LIMIT = 4 * 2**30  # bytes of pixels that one set may take in memory

Bad = tuple[int, str]
"""The number of a bad image in its source, and the reason."""
Read = Callable[[int], NDArray[np.uint8]]
T = TypeVar("T")
"""Reads an image by its number in its source; raises BadImage or OSError."""


class Images(ABC):
    """A set of square RGB images, or of inputs of another domain.

    Attributes:
        name: what the user called their source.
        shape: of one of them.
        labels: (N,) int64 indices into `classes`, or None.
        classes: class names; empty without labels.
        in_memory: whether reading an image costs no decoding.
    """

    in_memory = True

    def __init__(
        self, name: str, shape: InputShape, labels: Tensor | None, classes: tuple[str, ...]
    ) -> None:
        assert (labels is None) == (not classes)
        self.name = name
        self.shape = shape
        self.labels = labels
        self.classes = classes

    @property
    def image_size(self) -> int:
        """The side of square images in pixels; the number of time steps of a sequence."""
        return self.shape.width

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, indices: Tensor) -> Tensor:
        """Images by index: (B,) int64 to (B, C, H, W) uint8 on the CPU."""


class ImagesInMemory(Images):
    """Images that are decoded once and held in memory.

    Args:
        name, labels, classes: as in `Images`.
        pixels: (N, C, H, W) uint8.
        shape: of one of them; that of square images by default.
    """

    def __init__(
        self,
        name: str,
        pixels: Tensor,
        labels: Tensor | None,
        classes: tuple[str, ...],
        shape: InputShape | None = None,
    ) -> None:
        shape = InputShape.square(pixels.shape[-1]) if shape is None else shape
        assert pixels.dtype == torch.uint8
        assert pixels.shape[1:] == shape.tensor
        assert labels is None or len(labels) == len(pixels)
        super().__init__(name, shape, labels, classes)
        self.pixels = pixels.contiguous()

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: Tensor) -> Tensor:
        # NumPy instead of torch's indexing, which would start OpenMP threads of its own in the
        # thread that reads ahead. With more threads than cores every operation of a step is slower.
        return torch.from_numpy(np.take(self.pixels.numpy(), indices.numpy(), axis=0))


class ImagesOnDemand(Images):
    """Images that are decoded by a pool of threads whenever they are requested.

    A file that only now turns out to be bad or missing is replaced by the next good one, so that a
    long run can go on.

    Args:
        source: the images.
        indices: (N,) int64 indices of the source's images that belong to this set.
        shape: of one of them.
        read: gives the pixels (C, H, W) of an image of the source.
        left_out: collects the bad files.
        bad: names of files that are left out already.

    Attributes:
        bad: the names of all bad files, those known from the start first.
        replaced: the reasons of those that were met since, by their number in the source.
    """

    in_memory = False

    def __init__(
        self,
        source: Items,
        indices: Tensor,
        shape: InputShape,
        read: Read,
        left_out: LeftOut,
        bad: Sequence[str] = (),
    ) -> None:
        labels = None if source.labels is None else source.labels[indices]
        super().__init__(source.name, shape, labels, source.classes)
        self._source, self._read = source, read
        self._indices: list[int] = indices.tolist()
        self._pool = ThreadPoolExecutor(cores_here())
        self._one_at_a_time = threading.Lock()
        self._left_out = left_out
        self.replaced: dict[int, str] = {}
        self.bad = list(bad)
        self._all = len(indices) + len(bad)

    def __len__(self) -> int:
        return len(self._indices)

    def batch(self, indices: Tensor) -> Tensor:
        """See `Images.batch`.

        Raises:
            TooManyBadError: more files have turned out to be bad than the limit allows.
        """
        return torch.from_numpy(np.stack(self.read_each(indices, repeat(self._read))))

    def read_each(self, indices: Tensor, reads: Iterable[Callable[[int], T]]) -> list[T]:
        """What is read of each image; raises as `batch`.

        Args:
            indices: (B,) int64 indices of images of this set.
            reads: reads an image by its number in the source, one function for each of them.
        """
        if in_worker():  # its parent, which is told of bad images, counts those of all workers
            return list(map(self._first_good, indices.tolist(), reads))
        read = list(self._pool.map(self._first_good, indices.tolist(), reads))
        self.check()
        return read

    def check(self) -> None:
        """Raises TooManyBadError if more files have turned out to be bad than the limit allows."""
        self._left_out.check_set(self.name, self.bad, self._all)

    def _first_good(self, index: int, read: Callable[[int], T]) -> T:
        """What is read of an image, or of the next one that is not bad."""
        for step in range(len(self)):
            at = self._indices[(index + step) % len(self)]
            if at not in self.replaced:
                try:
                    return read(at)
                except (BadImage, OSError) as error:
                    self.replace(at, why(error))
        raise UserError(f"{self.name}: no image could be read")

    def replace(self, index: int, reason: str) -> None:
        """Takes note that an image is bad, by its number in the source."""
        with self._one_at_a_time:
            if index not in self.replaced:
                self.replaced[index] = reason
                self.bad.append(self._source.describe(index))
                self._left_out.add(self.name, self.bad[-1], reason)


class ImageSubset(Images):
    """A view of some images of a set, without a copy of their pixels.

    Args:
        images: the set.
        indices: (N,) int64 indices into `images`.
    """

    def __init__(self, images: Images, indices: Tensor) -> None:
        labels = None if images.labels is None else images.labels[indices]
        super().__init__(images.name, images.shape, labels, images.classes)
        self.in_memory = images.in_memory
        self._images = images
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def batch(self, indices: Tensor) -> Tensor:
        return self._images.batch(self._indices[indices])


def why(error: BadImage | OSError) -> str:
    """The reason for the list of files left out, without the path that an OSError repeats."""
    return getattr(error, "strerror", None) or str(error)


def in_worker() -> bool:
    """Whether this is a process that `DataLoader` started; a pool of threads survives no fork."""
    return torch.utils.data.get_worker_info() is not None
