"""Decodes an image file with Pillow, safely, to a square array of RGB pixels."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from headsearch.data.image.wide_values import NOMINAL, Scale

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


def decode(data: bytes, size: int, scale: Scale = NOMINAL) -> NDArray[np.uint8]:
    """Decodes an image file to (3, size, size) uint8 RGB; see `square`.

    Raises:
        BadImage: as `open_image`, or the file is truncated.
    """
    # JPEGs are decoded at no less than twice the size, so that the antialiased resize after it
    # determines the quality.
    return to_array(open_image(data, draft=2 * size), size, scale)


def to_array(image: Image.Image, size: int, scale: Scale = NOMINAL) -> NDArray[np.uint8]:
    """Decodes an opened image to (3, size, size) uint8 RGB.

    Raises:
        BadImage: the image cannot be decoded.
    """
    try:
        pixels: NDArray[np.uint8] = np.asarray(square(image, size, scale)).transpose(2, 0, 1)
    except Exception as error:  # as in open_image
        raise BadImage(_reason(error)) from error
    return pixels


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def square(image: Image.Image, size: int, scale: Scale = NOMINAL) -> Image.Image:
    """The centre square of an image in RGB, rotated as its EXIF says, resized to (size, size).

    This equals resizing the shorter side (bicubic, antialiased) and cropping the centre, but in one
    step and without rounding the aspect ratio. Of an animation the first frame is used.
    """
    opened, image = image, to_rgb(image, scale)  # before its EXIF, which decodes a PNG
    turn = TURNS.get(orientation(opened))
    if turn is not None:
        image = image.transpose(turn)
    if image.size == (size, size):
        return image
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize(
        (size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
    )


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""What turns an image upright, by its EXIF orientation; 1 is upright already."""


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an image, 1 to 8; 1 where there is none that can be read.

    A damaged entry beside it must not cost the image: where Pillow cannot read the block as a
    whole, the entry is looked up alone.
    """
    try:
        found = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged entries raise many kinds of exceptions in Pillow's parser
        found = None
    if not isinstance(found, int) and isinstance(image.info.get("exif"), bytes):
        found = _orientation_entry(image.info["exif"].removeprefix(b"Exif\0\0"))
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _orientation_entry(block: bytes) -> int | None:
    """The value of the orientation entry of an EXIF block (a TIFF header and directory), if any."""
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return None
    with contextlib.suppress(struct.error):
        (first,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, first)
        for entry in range(count):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", block, first + 2 + 12 * entry)
            if tag == ExifTags.Base.Orientation and kind == SHORT:
                return int(value)
    return None


SHORT = 3
"""TIFF's number for the type of an unsigned 16-bit value."""


def to_rgb(image: Image.Image, scale: Scale = NOMINAL) -> Image.Image:
    """Converts an image of any Pillow mode to RGB.

    Transparent images are drawn on white; values of more than 8 bits are scaled to 8 bits. The
    bands of a TIFF beyond the first three (or the first, of a grey image) are left out: they may be
    infra-red as well as transparency, and files do not always say which.
    """
    bands = extra_bands(image)
    image = scale.to_8_bits(image)
    if image.mode == "RGB":
        return image
    if bands:
        return Image.merge("RGB", [image.getchannel(i if bands == 3 else 0) for i in range(3)])
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def extra_bands(image: Image.Image) -> int:
    """The number of bands that are used of a TIFF with further ones, 3 or 1; else 0."""
    if image.format != "TIFF":
        return 0
    per_pixel = getattr(image, "tag_v2", {}).get(SAMPLES_PER_PIXEL, 1)
    used = {"RGB": 3, "RGBA": 3, "L": 1, "LA": 1, "I;16": 1}.get(image.mode, 0)
    return used if used and isinstance(per_pixel, int) and per_pixel > used else 0


SAMPLES_PER_PIXEL = 277
"""The TIFF tag of the number of bands."""
