"""Photos: images larger than the views of them, or not square. Crops are cut from the originals.

A photo is never reduced to a square before it is cropped: a random crop takes its part of the whole
photo, decoded at its own resolution, so that a small crop is not an enlarged thumbnail.

Sides are in pixels: S of a view, H and W of a photo. B photos of a batch, V crops of each photo.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from headsearch.config.views import ViewSettings
from headsearch.data.image.decode import TURNS, BadImage, orientation, to_rgb
from headsearch.data.image.readers import Source

STORED = 1.75
"""The default shorter side of a photo that is kept in memory, as a multiple of the view's side."""
EVALUATION_SHARE = 224 / 256
"""The share of the shorter side that the centre crop of evaluation takes. The field resizes the
shorter side to 256 pixels and crops 224."""

Box = tuple[float, float, float, float]
"""A crop: left, top, width and height as shares of the photo's width and height."""


class Cut(NamedTuple):
    """Random crops of one kind, of one photo or of each photo of a batch.

    Attributes:
        size: S, their side.
        draws: the uniform numbers that each crop is made of (`crop_box`), (V, 4) for one photo and
            (V, B, 4) for a batch.
        views: scale, ratio and interpolation.
    """

    size: int
    draws: NDArray[np.float64]
    views: ViewSettings

    def of(self, index: int) -> Cut:
        """The crops of one photo of the batch."""
        return self._replace(draws=self.draws[:, index])

    def boxes(self, aspect: float) -> list[Box]:
        """The boxes of the V crops of one photo, whose width over height is `aspect`."""
        return [crop_box(draws, aspect, self.views) for draws in self.draws.tolist()]


@dataclass(frozen=True)
class PhotoReader:
    """Reads the photos of a source.

    Attributes:
        source: the photos.
        size: S, the side of views.
        store_size: the shorter side at which photos are kept; smaller ones keep their size.
    """

    source: Source
    size: int
    store_size: int

    def stored(self, index: int) -> NDArray[np.uint8]:
        """A photo (H, W, 3) uint8 whose shorter side is at most `store_size`; raises as `crops`."""
        photo = self._whole(index, lambda width, height: self.store_size / min(width, height))
        height, width, _ = photo.shape
        shrink = self.store_size / min(height, width)
        if shrink >= 1:
            return photo
        return resized(photo, (round(height * shrink), round(width * shrink)), "bicubic")

    def evaluated(self, index: int) -> NDArray[np.uint8]:
        """The view (3, S, S) uint8 of a photo for evaluation; raises as `crops`."""
        return evaluation_view(self.stored(index), self.size)

    def crops(self, index: int, cuts: Sequence[Cut]) -> list[NDArray[np.uint8]]:
        """Crops of a photo, which is decoded once: (V, 3, S, S) uint8 for each kind.

        Args:
            index: of the photo in its source.
            cuts: the kinds of crops.

        Raises:
            BadImage: the file is not a usable image.
            OSError: the file cannot be read.
        """

        def share(width: int, height: int) -> float:
            return max(
                cut.size / min(box[2] * width, box[3] * height)
                for cut in cuts
                for box in cut.boxes(width / height)
            )

        photo_HW3 = self._whole(index, share)
        return [cut_out(photo_HW3, cut) for cut in cuts]

    def _whole(self, index: int, share: Callable[[int, int], float]) -> NDArray[np.uint8]:
        """A photo (H, W, 3), upright, at its own size, or a JPEG at 1/2, 1/4 or 1/8 of it.

        Args:
            index: of the photo in its source.
            share: the share of its resolution that is needed, from its width and height. A scaled
                JPEG has at least twice that, so that the resize after it decides the quality.
        """
        image = self.source.opened(index)
        if image is None:
            raise BadImage("its pixels cannot be read at their own size")
        try:
            if image.format == "JPEG":
                turn = TURNS.get(orientation(image))
                width, height = image.size[::-1] if turn in SIDEWAYS else image.size
                needed = 2 * share(width, height)
                image.draft(
                    None, (math.ceil(needed * image.width), math.ceil(needed * image.height))
                )
                photo = np.array(to_rgb(image, self.source.scale))
            else:
                photo = np.array(to_rgb(image, self.source.scale))
                turn = TURNS.get(orientation(image))  # after the pixels, which it follows in a PNG
        except BadImage:
            raise
        except Exception as error:  # damaged files raise many kinds of exceptions in Pillow
            raise BadImage(str(error) or type(error).__name__) from error
        return photo if turn is None else np.array(Image.fromarray(photo).transpose(turn))


SIDEWAYS = (
    Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)  # fmt: skip
"""The turns that exchange width and height."""


def crop_box(draws: Sequence[float], aspect: float, views: ViewSettings) -> Box:
    """Converts four uniform numbers in [0, 1) to a random crop of an image of any shape.

    The area is uniform in `crop_scale`, and the aspect ratio log-uniform in the part of
    `crop_ratio` that a crop of this area can have inside the image, so none has to be rejected. On
    square images it is `views.crop_boxes`. Where no crop of this area has an allowed ratio, as in
    a panorama, the crop has the allowed ratio nearest to the image's, and the largest area that
    fits.

    Args:
        draws: they decide area, ratio, left and top.
        aspect: width over height of the image.
        views: gives `crop_scale` and `crop_ratio`.
    """
    (low, high), (narrow, wide) = views.crop_scale, views.crop_ratio
    area = low + (high - low) * draws[0]
    # width² = area · ratio / aspect <= 1 and height² = area · aspect / ratio <= 1, as shares.
    least, most = max(narrow, area * aspect), min(wide, aspect / area)
    if least > most:
        ratio = min(max(aspect, narrow), wide)
        width, height = min(1.0, ratio / aspect), min(1.0, aspect / ratio)
    else:
        ratio = math.exp(math.log(least) + (math.log(most) - math.log(least)) * draws[1])
        width = min(1.0, math.sqrt(area * ratio / aspect))
        height = min(1.0, math.sqrt(area * aspect / ratio))
    return draws[2] * (1 - width), draws[3] * (1 - height), width, height


def cut_out(photo_HW3: NDArray[np.uint8], cut: Cut) -> NDArray[np.uint8]:
    """Cuts crops from a photo and resizes them to (V, 3, S, S); borders are rounded to pixels."""
    height, width, _ = photo_HW3.shape
    size = cut.size
    crops = np.empty((len(cut.draws), 3, size, size), np.uint8)
    for crop, box in zip(crops, cut.boxes(width / height), strict=True):
        left, top, across, down = box
        first, above = min(round(left * width), width - 1), min(round(top * height), height - 1)
        last, below = first + max(1, round(across * width)), above + max(1, round(down * height))
        part = photo_HW3[above:below, first:last]
        crop[:] = resized(part, (size, size), cut.views.interpolation).transpose(2, 0, 1)
    return crops


def evaluation_view(photo_HW3: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The centre crop (3, S, S) of `EVALUATION_SHARE` of the shorter side."""
    height, width, _ = photo_HW3.shape
    side = max(1, round(EVALUATION_SHARE * min(height, width)))
    top, left = (height - side) // 2, (width - side) // 2
    part = photo_HW3[top : top + side, left : left + side]
    return resized(part, (size, size), "bicubic").transpose(2, 0, 1)


def resized(
    pixels_HW3: NDArray[np.uint8], size: tuple[int, int], interpolation: str
) -> NDArray[np.uint8]:
    """Resizes an image (H, W, 3) to another height and width, antialiased."""
    if pixels_HW3.shape[:2] == size:
        return pixels_HW3
    # Made contiguous by NumPy: torch would start threads of its own for it, beside those that
    # read images in parallel. Its antialiased resize of one image is a single thread.
    channels_last = torch.from_numpy(np.ascontiguousarray(pixels_HW3)).permute(2, 0, 1)[None]
    resized_13SS = F.interpolate(channels_last, size, mode=interpolation, antialias=True)
    return resized_13SS[0].permute(1, 2, 0).numpy()


def holds_photos(source: Source, size: int, looked_at: int = 16) -> bool:
    """Whether a source holds images that are not square or larger than the views, and gives them.

    Args:
        source: the images.
        size: S, the side of views.
        looked_at: how many of the first images are opened; one photo decides.
    """
    for index in range(min(looked_at, len(source))):
        with contextlib.suppress(BadImage, OSError):
            image = source.opened(index)
            if image is None:
                return False
            if min(image.size) > size or image.width != image.height:
                return True
    return False


def bytes_of(source: Source, store_size: int, looked_at: int = 16) -> float:
    """The mean size of a photo in memory at a shorter side of `store_size`, in bytes."""
    sizes = []
    for index in range(min(looked_at, len(source))):
        with contextlib.suppress(BadImage, OSError):
            image = source.opened(index)
            if image is not None:
                shrink = min(1.0, store_size / min(image.size))
                sizes.append(3 * image.width * image.height * shrink**2)
    return sum(sizes) / len(sizes) if sizes else 3.0 * store_size**2
