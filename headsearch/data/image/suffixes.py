"""Which files count as images by their names, and which are hidden."""

from __future__ import annotations

import posixpath

SUFFIXES = (
    ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tga", ".tif",
    ".tiff", ".webp",
)  # fmt: skip
"""The suffixes of image files, in lower case."""


def is_hidden(name: str) -> bool:
    """Whether no reader looks at a file or folder of this name, nor at what a folder holds.

    macOS adds `._x.jpg` and the folder `__MACOSX` to archives, for the metadata of x.jpg.
    """
    return (name.startswith(".") and name not in (".", "..")) or name == "__MACOSX"


def is_image(file: str) -> bool:
    return posixpath.splitext(file)[1].lower() in SUFFIXES
