"""Reads parts of files, on this machine or at a URL that fsspec knows (`s3://`, `gs://`, …)."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import fsspec

from headsearch.data.image.decode import BadImage
from headsearch.errors import UserError

T = TypeVar("T")

HEAD = 2**16
"""Enough bytes of a file for the size of the image in it, unless long metadata come first."""
LARGEST_FILE = 2**30
"""The largest file in bytes; even uncompressed, the largest image that Pillow opens is smaller."""


def is_url(name: str) -> bool:
    """Whether a name is a URL, such as `s3://bucket/images`, rather than a path."""
    return "://" in name


def read_range(file: str, offset: int, size: int | None, most: int | None = None) -> bytes:
    """Bytes of a file.

    Args:
        file: a path or a URL.
        offset: of the first byte.
        size: the number of bytes; None for all to the end.
        most: the most bytes that the file, or the part of it, may have; None for any number.

    Raises:
        BadImage: there are more bytes, or it is a pipe or a device.
        OSError: it cannot be read.
    """
    if is_url(file):
        if size is not None:
            check_size(size, most)
        return reached(lambda: _remote_range(file, offset, size, most))
    path = Path(file)
    if size is None:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device, reading which may never end
            raise BadImage("not a regular file")
        check_size(status.st_size, most)
        return path.read_bytes()
    check_size(size, most)
    # A new handle for each read, since threads and forked workers would share its position.
    with path.open("rb") as opened:
        opened.seek(offset)
        return opened.read(size)


def read_head(file: str, offset: int = 0, size: int | None = None) -> bytes:
    """The first bytes of a file or of a part of it, at most `HEAD` of them; raises as `read_range`.

    Args:
        file: a path or a URL.
        offset: of the first byte of the part.
        size: the number of its bytes; None where it reaches to the end of the file.
    """
    if not is_url(file) and not stat.S_ISREG(Path(file).stat().st_mode):
        raise BadImage("not a regular file")
    return read_range(file, offset, HEAD if size is None else min(size, HEAD))


def _remote_range(file: str, offset: int, size: int | None, most: int | None) -> bytes:
    filesystem, path = file_system(file)
    if size is None:
        if most is not None:
            check_size(int(filesystem.size(path) or 0), most)
        return bytes(filesystem.cat_file(path))
    return bytes(filesystem.cat_file(path, start=offset, end=offset + size))


def open_binary(file: str) -> IO[bytes]:
    """A file, or a URL, opened to be read from any position; raises OSError."""
    if not is_url(file):
        return Path(file).open("rb")
    filesystem, path = file_system(file)
    opened: IO[bytes] = reached(lambda: filesystem.open(path, "rb"))
    return opened


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it.

    Raises:
        UserError: fsspec does not know the kind of URL, or needs a package for it.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:  # fsspec says which package to install
        raise UserError(f"{url}: {first_line(error)}") from None
    except Exception as error:  # libraries of many makers
        raise UserError(f"{url} cannot be opened: {first_line(error)}") from None
    return filesystem, str(path)


def reached(call: Callable[[], T]) -> T:
    """The result of a call of a remote file system; whatever fails in it becomes an OSError."""
    try:
        return call()
    except (OSError, BadImage, UserError):
        raise
    except Exception as error:  # each service raises errors of its own
        raise OSError(first_line(error)) from error


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check_size(size: int, most: int | None) -> None:
    """Raises BadImage if a file has more bytes than it may have."""
    if most is not None and size > most:
        raise BadImage(f"{size} bytes, over the limit of {most}")
