"""`Items` and `Source`: numbered sets of undecoded samples that can be read in any order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from headsearch.data.image.decode import BadImage, decode, open_image
from headsearch.data.image.wide_values import NOMINAL, Scale

NOTHING: Mapping[str, int] = MappingProxyType({})


class Items(ABC):
    """A numbered set of undecoded samples, images or clips.

    Attributes:
        name: what the user called it.
        labels: (N,) int64 indices into `classes`, or None.
        classes: class names, sorted; empty without labels.
        notes: decisions that were made while opening it, one line each.
        others: names of the files without the suffix of a sample.
        beside: the numbers of such files that lie beside a sample of the same name (captions,
            metadata), by ending. They are not among `others`.
    """

    name: str
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    others: Sequence[str] = ()
    beside: Mapping[str, int] = NOTHING

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def check(self, index: int) -> None:
        """Looks at the start of a sample without decoding it.

        Raises:
            BadImage: it is not usable, as far as that can be seen.
            OSError: the file cannot be read.
        """

    def __str__(self) -> str:
        return self.name

    def describe(self, index: int) -> str:
        """The name of a sample in messages."""
        return f"{self.name}[{index}]"


class Source(Items):
    """A numbered set of images that can be decoded one at a time, from several threads.

    Attributes:
        scale: of images of more than 8 bits a value; see `survey`.
    """

    scale: Scale = NOMINAL

    @abstractmethod
    def pixels(self, index: int, size: int) -> NDArray[np.uint8]:
        """Image `index` as (3, size, size) uint8 RGB.

        Raises:
            BadImage: the file is not a usable image.
            OSError: the file cannot be read.
        """

    @abstractmethod
    def shorter_side(self, index: int) -> int:
        """The shorter side of image `index` in pixels, without decoding it; raises as `pixels`."""

    def opened(self, index: int) -> Image.Image | None:
        """Image `index` before it is decoded, if there is such a thing; raises as `pixels`."""
        return None

    def check(self, index: int) -> None:
        self.shorter_side(index)


class EncodedSource(Source):
    """A source whose images are encoded files, which are read as bytes."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The bytes of image `index`. Raises BadImage or OSError."""

    def pixels(self, index: int, size: int) -> NDArray[np.uint8]:
        return decode(self.read(index), size, self.scale)

    def opened(self, index: int) -> Image.Image:
        return open_image(self.read(index))

    def head(self, index: int) -> bytes:
        """The first bytes of image `index`, or all of them. Raises as `read`."""
        return self.read(index)

    def shorter_side(self, index: int) -> int:
        try:
            return min(open_image(self.head(index)).size)
        except BadImage:  # the size may come after long metadata
            return min(self.opened(index).size)
