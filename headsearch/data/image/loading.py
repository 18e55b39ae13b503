"""`load_inputs`, `load` and `load_photos`: decode samples into memory, or leave them for later."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from headsearch.config.input_shape import InputShape
from headsearch.config.settings import CheckImages
from headsearch.data.image.decode import BadImage
from headsearch.data.image.photo_sets import Photos, PhotosInMemory, PhotosOnDemand
from headsearch.data.image.photos import PhotoReader, bytes_of
from headsearch.data.image.skipped import LeftOut
from headsearch.data.image.source import Items, Source
from headsearch.data.image.store import (
    MEMORY_LIMIT,
    Images,
    ImagesInMemory,
    ImagesOnDemand,
    Progress,
    Read,
    why,
)
from headsearch.data.sharing import ALONE, Share
from headsearch.device import cores_here
from headsearch.errors import UserError

CHECKED = 100_000
"""The largest set of which `auto` opens every file, which takes about a minute."""
_CHUNK = 64  # images in a task of the thread pool; with fewer, its overhead dominates


@dataclass(frozen=True)
class Loading:
    """How sets of images are loaded.

    Attributes:
        memory_limit: bytes of pixels above which images are decoded on demand.
        check: which files of images that are decoded on demand are opened beforehand: all
            (`headers`), none (`lazy`), or those of sets of up to `CHECKED` images (`auto`). That
            finds files that are not images, but not truncated ones. Other bad ones are replaced
            when they are met.
        progress: called while images are decoded or checked.
        left_out: collects the bad files, and their number in each set.
        share: what of the set this process decodes, where all processes of its job load the set.
    """

    memory_limit: int = MEMORY_LIMIT
    check: CheckImages = "auto"
    progress: Progress | None = None
    left_out: LeftOut = field(default_factory=LeftOut)
    share: Share = ALONE


def load_inputs(
    source: Items,
    indices: Tensor,
    shape: InputShape,
    read: Read,
    how: Loading | None = None,
) -> tuple[Images, list[str]]:
    """Loads the images of a set, or the maps of clips, which all have one shape.

    Args:
        source: the images.
        indices: (N,) int64 indices of the images in the order of the result.
        shape: of each.
        read: gives the pixels (C, H, W) of an image by its index.
        how: see `Loading`.

    Returns:
        The images without the bad ones, and the names of the bad ones.

    Raises:
        UserError: a process that shares the set has images of another number or shape.
    """
    how = Loading() if how is None else how
    for count, there in how.share.gather((len(indices), shape.tensor)):
        if (count, there) != (len(indices), shape.tensor):
            raise UserError(
                f"the processes of this job have different data: of {source.name}, one has "
                f"{len(indices)} samples of shape {shape.tensor}, another {count} of {there}"
            )
    if len(indices) * shape.values > how.memory_limit:
        kept, names = _checked(source, indices, how)
        return ImagesOnDemand(source, kept, shape, read, how.left_out, names), names
    rows = how.share.rows(len(indices)) * how.share.count
    pixels = np.empty((rows, *shape.tensor), np.uint8)

    def keep(position: int, index: int) -> None:
        pixels[position] = read(index)

    good, names = _read_all(source, indices, keep, how)
    tensor = torch.from_numpy(pixels)
    how.share.fill(tensor)
    tensor = tensor[: len(indices)]
    kept = indices[good]
    labels = None if source.labels is None else source.labels[kept]
    kept_pixels = tensor[good] if names else tensor
    return ImagesInMemory(source.name, kept_pixels, labels, source.classes, shape), names


def load(
    source: Source,
    indices: Tensor,
    image_size: int,
    how: Loading | None = None,
    read: Read | None = None,
) -> tuple[Images, list[str]]:
    """Loads the square images of a set; see `load_inputs`.

    Args:
        source, indices, how: as there.
        image_size: side in pixels.
        read: gives the pixels (3, S, S) of an image; by default `source.pixels`.
    """
    read = partial(source.pixels, size=image_size) if read is None else read
    return load_inputs(source, indices, InputShape.square(image_size), read, how)


def load_photos(
    reader: PhotoReader, indices: Tensor, how: Loading | None = None
) -> tuple[Photos, list[str]]:
    """Loads the photos of a set, which crops are cut from; see `load`.

    They are kept in memory at the reader's `store_size`, or read from their files on demand.
    """
    how, source = Loading() if how is None else how, reader.source
    if len(indices) * bytes_of(source, reader.store_size) > how.memory_limit:
        kept, names = _checked(source, indices, how)
        return PhotosOnDemand(reader, kept, how.left_out, names), names
    photos = [np.empty(0, np.uint8)] * len(indices)

    def keep(position: int, index: int) -> None:
        photos[position] = reader.stored(index)

    good, names = _read_all(source, indices, keep, how)
    return PhotosInMemory(reader, indices[good], [p for p in photos if p.size]), names


def _checked(source: Items, indices: Tensor, how: Loading) -> tuple[Tensor, list[str]]:
    """The indices of the images that are decoded on demand, and the names of the bad ones."""
    if how.check == "lazy" or (how.check == "auto" and len(indices) > CHECKED):
        how.left_out.sets.append((source.name, [], len(indices)))
        return indices, []
    good, names = _read_all(source, indices, lambda _, index: source.check(index), how)
    return indices[good], names


def _read_all(
    source: Items, indices: Tensor, keep: Callable[[int, int], object], how: Loading
) -> tuple[Tensor, list[str]]:
    """Reads images in parallel: the part of this process, where processes share a set.

    Args:
        source: the images.
        indices: (N,) int64, which of them.
        keep: called with the position of each in `indices`, and its index; raises BadImage or
            OSError.
        how: see `Loading`.

    Returns:
        (N,) bool, True for good ones; and the names of the bad ones, those of all processes.
    """
    wanted: list[int] = indices.tolist()
    part = how.share.part(len(wanted))

    def read_chunk(first: int) -> dict[int, str]:
        """Reads a chunk of the part; returns the reasons of bad ones by position."""
        reasons = {}
        for position in part[first : first + _CHUNK]:
            try:
                keep(position, wanted[position])
            except (BadImage, OSError) as error:
                reasons[position] = why(error)
        return reasons

    bad: dict[int, str] = {}
    with _no_bomb_warnings(), ThreadPoolExecutor(cores_here()) as pool:
        try:
            chunks = pool.map(read_chunk, range(0, len(part), _CHUNK))
            for number, reasons in enumerate(chunks, start=1):
                bad |= reasons
                if how.progress is not None:
                    how.progress(min(number * _CHUNK, len(part)), len(part))
        except BaseException:  # also Ctrl-C, which must not wait for all the files in the queue
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for reasons in how.share.gather(bad):
        bad |= reasons
    names = [source.describe(wanted[position]) for position in bad]
    for name, reason in zip(names, bad.values(), strict=True):
        how.left_out.add(source.name, name, reason)
    how.left_out.sets.append((source.name, names, len(wanted)))
    good = torch.ones(len(wanted), dtype=torch.bool)
    good[list(bad)] = False
    return good, names


@contextmanager
def _no_bomb_warnings() -> Iterator[None]:
    """Suppresses Pillow's warning about large images, which `open_image` refuses anyway."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield
