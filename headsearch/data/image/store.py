"""`Images`, a set of decoded square images: held in memory, or decoded on demand."""

from __future__ import annotations

import os
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from headsearch.data.image.decode import BadImage
from headsearch.data.image.readers import Source
from headsearch.data.image.skipped import LeftOut
from headsearch.errors import UserError

Progress = Callable[[int, int], None]
"""A function `progress(done, total)` of numbers of images, called from the calling thread."""

MEMORY_LIMIT = 4 * 2**30  # bytes of pixels that one set may take in memory

_CHUNK = 64  # images in a task of the thread pool; with fewer, its overhead dominates


class Images(ABC):
    """A set of square RGB images.

    Attributes:
        name: what the user called their source.
        image_size: side in pixels.
        labels: (N,) int64 indices into `classes`, or None.
        classes: class names; empty without labels.
        in_memory: whether reading an image costs no decoding.
    """

    in_memory = True

    def __init__(
        self, name: str, image_size: int, labels: Tensor | None, classes: tuple[str, ...]
    ) -> None:
        assert (labels is None) == (not classes)
        self.name = name
        self.image_size = image_size
        self.labels = labels
        self.classes = classes

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, indices: Tensor) -> Tensor:
        """Images by index: (B,) int64 to (B, 3, S, S) uint8 on the CPU."""


class ImagesInMemory(Images):
    """Images that are decoded once and held in memory.

    Args:
        name, labels, classes: as in `Images`.
        pixels: (N, 3, S, S) uint8.
    """

    def __init__(
        self, name: str, pixels: Tensor, labels: Tensor | None, classes: tuple[str, ...]
    ) -> None:
        assert pixels.dtype == torch.uint8
        assert pixels.shape[1] == 3
        assert pixels.shape[2] == pixels.shape[3]
        assert labels is None or len(labels) == len(pixels)
        super().__init__(name, pixels.shape[-1], labels, classes)
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
        image_size: side in pixels.
        left_out: collects the bad files.
        bad: names of files that are left out already.

    Attributes:
        bad: the names of all bad files, those known from the start first.
    """

    in_memory = False

    def __init__(
        self,
        source: Source,
        indices: Tensor,
        image_size: int,
        left_out: LeftOut,
        bad: Sequence[str] = (),
    ) -> None:
        labels = None if source.labels is None else source.labels[indices]
        super().__init__(source.name, image_size, labels, source.classes)
        self._source = source
        self._indices: list[int] = indices.tolist()
        self._pool = ThreadPoolExecutor(threads())
        self._one_at_a_time = threading.Lock()
        self._left_out = left_out
        self._replaced: set[int] = set()
        self.bad = list(bad)
        self._all = len(indices) + len(bad)

    def __len__(self) -> int:
        return len(self._indices)

    def batch(self, indices: Tensor) -> Tensor:
        """See `Images.batch`.

        Raises:
            TooManyBadError: more files have turned out to be bad than the limit allows.
        """
        arrays = list(self._pool.map(self._pixels, indices.tolist()))
        self._left_out.check_set(self.name, self.bad, self._all)
        return torch.from_numpy(np.stack(arrays))

    def _pixels(self, index: int) -> NDArray[np.uint8]:
        """The pixels of an image, or of the next one that is not bad."""
        for step in range(len(self)):
            at = self._indices[(index + step) % len(self)]
            if at not in self._replaced:
                try:
                    return self._source.pixels(at, self.image_size)
                except (BadImage, OSError) as error:
                    self._replace(at, error)
        raise UserError(f"{self.name}: no image could be read")

    def _replace(self, index: int, error: BadImage | OSError) -> None:
        with self._one_at_a_time:
            if index not in self._replaced:
                self._replaced.add(index)
                self.bad.append(self._source.describe(index))
                self._left_out.add(self.name, self.bad[-1], _why(error))


class ImageSubset(Images):
    """A view of some images of a set, without a copy of their pixels.

    Args:
        images: the set.
        indices: (N,) int64 indices into `images`.
    """

    def __init__(self, images: Images, indices: Tensor) -> None:
        labels = None if images.labels is None else images.labels[indices]
        super().__init__(images.name, images.image_size, labels, images.classes)
        self.in_memory = images.in_memory
        self._images = images
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def batch(self, indices: Tensor) -> Tensor:
        return self._images.batch(self._indices[indices])


def load(
    source: Source,
    indices: Tensor,
    image_size: int,
    memory_limit: int = MEMORY_LIMIT,
    progress: Progress | None = None,
    left_out: LeftOut | None = None,
) -> tuple[Images, list[str]]:
    """Decodes images of a source into memory, or checks them for decoding on demand.

    Args:
        source: the images.
        indices: (N,) int64 indices of the images in the order of the result.
        image_size: side in pixels.
        memory_limit: bytes of pixels above which images are decoded on demand. Their files are
            then only opened, which finds files that are not images but not truncated ones.
        progress: called while images are decoded or checked.
        left_out: collects the bad files, and their number in this set.

    Returns:
        The images without the bad ones, and the names of the bad ones.
    """
    left_out = LeftOut() if left_out is None else left_out
    wanted: list[int] = indices.tolist()
    in_memory = len(wanted) * 3 * image_size**2 <= memory_limit
    pixels = np.empty((len(wanted) if in_memory else 0, 3, image_size, image_size), np.uint8)

    def read_chunk(first: int) -> dict[int, str]:
        """Reads images from position `first` on; returns the reasons of bad ones by position."""
        reasons = {}
        for position, index in enumerate(wanted[first : first + _CHUNK], start=first):
            try:
                if in_memory:
                    pixels[position] = source.pixels(index, image_size)
                else:
                    source.shorter_side(index)
            except (BadImage, OSError) as error:
                reasons[position] = _why(error)
        return reasons

    bad: dict[int, str] = {}
    with _no_bomb_warnings(), ThreadPoolExecutor(threads()) as pool:
        try:
            chunks = pool.map(read_chunk, range(0, len(wanted), _CHUNK))
            for number, reasons in enumerate(chunks, start=1):
                bad |= reasons
                if progress is not None:
                    progress(min(number * _CHUNK, len(wanted)), len(wanted))
        except BaseException:  # also Ctrl-C, which must not wait for all the files in the queue
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    names = [source.describe(wanted[position]) for position in bad]
    for name, reason in zip(names, bad.values(), strict=True):
        left_out.add(source.name, name, reason)
    left_out.sets.append((source.name, names, len(wanted)))
    good = torch.ones(len(wanted), dtype=torch.bool)
    good[list(bad)] = False
    kept = indices[good]
    if not in_memory:
        return ImagesOnDemand(source, kept, image_size, left_out, names), names
    tensor = torch.from_numpy(pixels)
    labels = None if source.labels is None else source.labels[kept]
    return (
        ImagesInMemory(source.name, tensor[good] if bad else tensor, labels, source.classes),
        names,
    )


def _why(error: BadImage | OSError) -> str:
    """The reason for the list of files left out, without the path that an OSError repeats."""
    return getattr(error, "strerror", None) or str(error)


def threads() -> int:
    """The number of threads for decoding: one per core that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _no_bomb_warnings() -> Iterator[None]:
    """Suppresses Pillow's warning about large images, which `open_image` refuses anyway."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield
