"""Decoded square images behind one interface: held in memory, or decoded when asked for."""

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
"""Called with images done and images in all, from the calling thread."""

MEMORY_LIMIT = 4 * 2**30  # bytes of pixels that one set may hold

_CHUNK = 64  # images a task: small ones would drown in the pool's own work


class Images(ABC):
    """A set of square RGB images.

    Attributes:
        name: what the user called where they come from.
        image_size: side in pixels.
        labels: (N,) int64 indices into `classes`, or None.
        classes: class names; empty without labels.
    """

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
    """Images decoded once."""

    def __init__(
        self, name: str, pixels: Tensor, labels: Tensor | None, classes: tuple[str, ...]
    ) -> None:
        """
        Args:
            pixels: (N, 3, S, S) uint8.
        """
        assert pixels.dtype == torch.uint8
        assert pixels.shape[1] == 3
        assert pixels.shape[2] == pixels.shape[3]
        assert labels is None or len(labels) == len(pixels)
        super().__init__(name, pixels.shape[-1], labels, classes)
        self.pixels = pixels.contiguous()

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: Tensor) -> Tensor:
        # Not torch's indexing: in the thread that reads ahead it would start a team of OpenMP
        # threads, and with more of those than cores every operation of a step waits longer.
        return torch.from_numpy(np.take(self.pixels.numpy(), indices.numpy(), axis=0))


class ImagesOnDemand(Images):
    """Images decoded whenever they are asked for, by a pool of threads.

    A file that turns out to be bad, or gone, only now is replaced by the next good one, so that a
    long run goes on.

    Attributes:
        bad: the names of files that were, those found at the opening first.
    """

    def __init__(
        self,
        source: Source,
        indices: Tensor,
        image_size: int,
        left_out: LeftOut,
        bad: Sequence[str] = (),
    ) -> None:
        """
        Args:
            source: where images are decoded from.
            indices: (N,) int64, which of the source's images these are.
            left_out: told of every bad file.
            bad: names of files that are left out already.
        """
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
        """See `Images.batch`. Raises: TooManyBadError if more files have proved bad than may."""
        arrays = list(self._pool.map(self._pixels, indices.tolist()))
        self._left_out.check_set(self.name, self.bad, self._all)
        return torch.from_numpy(np.stack(arrays))

    def _pixels(self, index: int) -> NDArray[np.uint8]:
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
    """Some images of a set, without a copy."""

    def __init__(self, images: Images, indices: Tensor) -> None:
        """
        Args:
            indices: (N,) int64, indices into `images`.
        """
        labels = None if images.labels is None else images.labels[indices]
        super().__init__(images.name, images.image_size, labels, images.classes)
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
    """Decodes some images of a source into memory, or opens them for decoding on demand.

    Args:
        indices: (N,) int64, in the order that the images shall have.
        memory_limit: bytes of pixels above which images are decoded on demand; their files are
            then only opened, which finds those that are no images but not those cut short.
        left_out: told of every bad file, and how many there are of how many images.

    Returns:
        The images without the bad ones, and the names of these.
    """
    left_out = LeftOut() if left_out is None else left_out
    wanted: list[int] = indices.tolist()
    in_memory = len(wanted) * 3 * image_size**2 <= memory_limit
    pixels = np.empty((len(wanted) if in_memory else 0, 3, image_size, image_size), np.uint8)

    def read(first: int) -> dict[int, str]:
        bad = {}
        for place, index in enumerate(wanted[first : first + _CHUNK], start=first):
            try:
                if in_memory:
                    pixels[place] = source.pixels(index, image_size)
                else:
                    source.shorter_side(index)
            except (BadImage, OSError) as error:
                bad[place] = _why(error)
        return bad

    bad: dict[int, str] = {}
    with _no_bomb_warnings(), ThreadPoolExecutor(threads()) as pool:
        try:
            for number, found in enumerate(pool.map(read, range(0, len(wanted), _CHUNK)), start=1):
                bad |= found
                if progress is not None:
                    progress(min(number * _CHUNK, len(wanted)), len(wanted))
        except BaseException:  # Ctrl-C must not wait for all the files that are queued
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    names = [source.describe(wanted[place]) for place in bad]
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
    return getattr(error, "strerror", None) or str(error)


def threads() -> int:
    """Threads that decode: one a core that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _no_bomb_warnings() -> Iterator[None]:
    """Silences Pillow's warning about images that `open_image` refuses anyway."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield
