"""Decodes an image file with Pillow, safely, to a square array of RGB pixels."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, OverflowError, EOFError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""Exceptions that Pillow raises on damaged files, depending on their format."""

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""The formats that are read, whatever the name of the file. Pillow has more, but for one of them
(EPS) it starts another program (Ghostscript) on the file."""


class BadImage(Exception):  # noqa: N818 - "bad image" is what it is called in messages
    """A file is not an image, is truncated, or is too large to open safely."""


def open_image(data: bytes, draft: int | None = None) -> Image.Image:
    """Opens an image without decoding it.

    Args:
        data: the file.
        draft: lets a JPEG be decoded at 1/2, 1/4 or 1/8 of its size with sides of at least this
            many pixels, which saves most of the work on large photographs. None for full size.

    Raises:
        BadImage: the file is empty, not an image in one of `FORMATS`, or over Pillow's limit
            against decompression bombs.
    """
    if not data:
        raise BadImage("empty file")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        # Pillow itself raises an error only at twice its limit, and warns below that.
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise BadImage(f"{image.width}×{image.height} pixels, over the limit of {limit}")
        if draft is not None:
            image.draft(None, (draft, draft))
    except UnidentifiedImageError as error:
        raise BadImage("no image of a kind that is read") from error
    except Exception as error:  # damaged files raise many kinds of exceptions in Pillow's parsers
        raise BadImage(_reason(error)) from error
    return image


def decode(data: bytes, size: int) -> NDArray[np.uint8]:
    """Decodes an image file to (3, size, size) uint8 RGB; see `square`.

    Raises:
        BadImage: as `open_image`, or the file is truncated.
    """
    # JPEGs are decoded at no less than twice the size, so that the antialiased resize after it
    # determines the quality.
    return to_array(open_image(data, draft=2 * size), size)


def to_array(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Decodes an opened image to (3, size, size) uint8 RGB.

    Raises:
        BadImage: the image cannot be decoded.
    """
    try:
        pixels: NDArray[np.uint8] = np.asarray(square(image, size)).transpose(2, 0, 1)
    except Exception as error:  # as in open_image
        raise BadImage(_reason(error)) from error
    return pixels


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def square(image: Image.Image, size: int) -> Image.Image:
    """The centre square of an image in RGB, rotated as its EXIF says, resized to (size, size).

    This equals resizing the shorter side (bicubic, antialiased) and cropping the centre, but in one
    step and without rounding the aspect ratio. Of an animation the first frame is used.
    """
    image = to_rgb(ImageOps.exif_transpose(image))
    if image.size == (size, size):
        return image
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize(
        (size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
    )


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image of any Pillow mode to RGB.

    Transparent images are drawn on white; values of more than 8 bits are scaled to 8 bits.
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16 bits, also in mode I (32 bits), as older Pillow opens them
        image = Image.fromarray((np.asarray(image) / 257).clip(0, 255).round().astype(np.uint8))
    elif image.mode == "F":  # floats have no fixed range: scaled from darkest to brightest
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        span = max(values.max() - values.min(), 1e-12)
        image = Image.fromarray(((values - values.min()) / span * 255).round().astype(np.uint8))
    elif image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
