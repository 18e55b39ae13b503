"""`Source`, a numbered set of undecoded images, with readers for folders and tar archives.

Archives are read in place and never unpacked to disk. Names inside an archive only serve as labels,
never as paths.
"""

from __future__ import annotations

import difflib
import os
import stat
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headsearch.data.image.decode import BadImage, decode, open_image
from headsearch.errors import UserError
from headsearch.text import counted

SUFFIXES = (
    ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tga", ".tif",
    ".tiff", ".webp",
)  # fmt: skip
"""The suffixes of image files, in lower case."""

LARGEST_FILE = 2**30
"""The largest file in bytes; even uncompressed, the largest image that Pillow opens is smaller."""

TRAIN_FOLDERS = ("train", "training")
"""Usual names of the subfolder with the training split."""
EVAL_FOLDERS = ("val", "valid", "validation", "eval", "evaluation", "test")
"""Usual names of the subfolder with the evaluation split, in the order in which they are tried."""


class Source(ABC):
    """A numbered set of images that can be decoded one at a time, from several threads.

    Attributes:
        name: what the user called it.
        labels: (N,) int64 indices into `classes`, or None.
        classes: class names, sorted; empty without labels.
        notes: decisions that were made while opening it, one line each.
        others: names of the files without the suffix of an image.
    """

    name: str
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    others: Sequence[str] = ()

    @abstractmethod
    def __len__(self) -> int: ...

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

    def __str__(self) -> str:
        return self.name

    def describe(self, index: int) -> str:
        """The name of image `index` in messages."""
        return f"{self.name}[{index}]"


class FileSource(Source):
    """Image files that are read as bytes: the common part of folders and archives."""

    def __init__(self, name: str, files: Sequence[str], others: Sequence[str]) -> None:
        """Derives classes and labels from relative file names.

        Args:
            name: what the user called the folder or archive.
            files: relative names of the images, in order, with / between parts.
            others: names of the files without the suffix of an image.

        Raises:
            UserError: there are no images, or the folders are splits rather than classes.
        """
        if not files and others:
            raise UserError(
                f"{name} holds {counted(len(others), 'file')}, none an image (for example "
                f"{others[0]!r}); images end in {', '.join(SUFFIXES)}"
            )
        if not files:
            raise UserError(
                f"{name} is empty: expected images, or a folder of images for each class"
            )
        self.name = name
        self.files = files
        self.others = others
        notes = []
        if others:
            count = counted(len(others), "file that is not an image", "files that are not images")
            notes.append(f"{name}: {count} left out")
        if (folders := class_folders(files)) is not None:
            self.classes = tuple(sorted(set(folders)))
            splits = {c.lower() for c in self.classes} & {*TRAIN_FOLDERS, *EVAL_FOLDERS}
            if len(splits) == len(self.classes) > 1:
                raise UserError(
                    f"{name} holds splits ({', '.join(self.classes)}), not classes; "
                    "name one of them as --data and another as --eval-data"
                )
            number = {folder: i for i, folder in enumerate(self.classes)}
            self.labels = torch.tensor([number[folder] for folder in folders])
        elif any("/" in file for file in files):
            notes.append(f"{name}: images lie beside folders of images, so it counts as unlabelled")
        self.notes = tuple(notes)

    def __len__(self) -> int:
        return len(self.files)

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The bytes of file `index`. Raises BadImage or OSError."""

    def pixels(self, index: int, size: int) -> NDArray[np.uint8]:
        return decode(self.read(index), size)

    def shorter_side(self, index: int) -> int:
        return min(open_image(self.read(index)).size)

    def describe(self, index: int) -> str:
        return self.files[index]


def class_folders(files: Sequence[str]) -> list[str] | None:
    """The class of every file: its first folder that not all files share; None without classes.

    `cifar10/cat/1.png` and `cifar10/dog/2.png` have the classes `cat` and `dog`, since all files
    share the folder `cifar10`. If all files are in one folder, that folder is their only class.

    Args:
        files: relative names with / between parts.

    Returns:
        A class for every file, or None if some file is not in a folder below the shared ones.
    """
    parts = [PurePosixPath(file).parts[:-1] for file in files]
    if len(set(parts)) == 1:
        return [p[-1] for p in parts] if parts[0] else None
    depth = 0
    while all(len(p) > depth and p[depth] == parts[0][depth] for p in parts):
        depth += 1
    return None if any(len(p) == depth for p in parts) else [p[depth] for p in parts]


class FolderSource(FileSource):
    """The images below a folder."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        images: list[str] = []
        others: list[str] = []
        for file in _files_below(path):
            (images if _is_image(file) else others).append(file)
        super().__init__(name, sorted(images), sorted(others))

    def read(self, index: int) -> bytes:
        file = self.path / self.files[index]
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device, reading which may never end
            raise BadImage("not a regular file")
        _check_size(status.st_size)
        return file.read_bytes()


def _files_below(root: Path) -> Iterator[str]:
    """Yields the relative names of all files below a folder, but not hidden ones.

    Links to folders are followed; each folder is read once, so that a cycle of links ends.
    """
    seen = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        # In place, which `os.walk` takes as the folders to visit, in this order.
        subfolders[:] = sorted(s for s in subfolders if not s.startswith("."))
        relative = Path(folder).relative_to(root)
        yield from ((relative / f).as_posix() for f in files if not f.startswith("."))


def _is_image(file: str) -> bool:
    return PurePosixPath(file).suffix.lower() in SUFFIXES


@dataclass(frozen=True)
class _Member:
    """Where the bytes of a file lie in a tar."""

    offset: int
    size: int


class TarSource(FileSource):
    """The images in an uncompressed tar, which are read in place."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        images: dict[str, _Member] = {}
        others = []
        try:
            with tarfile.open(path, "r:") as tar:
                for info in tar:
                    file = PurePosixPath(info.name)
                    # Links and devices have no content in the archive. macOS adds "._x.jpg" for
                    # the metadata of x.jpg.
                    if not info.isreg() or file.name.startswith("."):
                        continue
                    if _is_image(info.name):
                        images[str(file)] = _Member(info.offset_data, info.size)
                    else:
                        others.append(str(file))
        except tarfile.TarError as error:
            raise UserError(
                f"{name} cannot be read as a tar ({error}); it must be complete and not compressed"
            ) from error
        files = sorted(images)
        self._members = [images[file] for file in files]
        super().__init__(name, files, others)

    def read(self, index: int) -> bytes:
        member = self._members[index]
        _check_size(member.size)
        # A new handle for each read, since threads and forked workers would share its position.
        with self.path.open("rb") as file:
            file.seek(member.offset)
            return file.read(member.size)


def _check_size(size: int) -> None:
    if size > LARGEST_FILE:
        raise BadImage(f"{size} bytes, over the limit of {LARGEST_FILE}")


def open_path(path: Path, name: str) -> FileSource:
    """Opens a folder or a .tar of images.

    Args:
        path: the folder or archive.
        name: what the user called it.

    Raises:
        UserError: it does not exist, is neither a folder nor a tar, or contains no image.
    """
    if path.is_dir():
        return FolderSource(path, name)
    if path.is_file() and tarfile_like(path):
        return TarSource(path, name)
    if path.exists():
        raise UserError(f"{name} is neither a folder nor a .tar of images")
    raise UserError(f"{name} does not exist{nearest(path)}")


def tarfile_like(path: Path) -> bool:
    """Whether the suffix of a file is that of a tar, compressed ones included.

    A compressed tar is opened as well, so that the message says that it must not be compressed.
    """
    return ".tar" in path.suffixes or path.suffix == ".tgz"


def nearest(path: Path) -> str:
    """A hint for a message about a missing path: a similar name, or the nearest folder."""
    parent = path.absolute().parent
    missing = path.name
    while not parent.is_dir():
        parent, missing = parent.parent, parent.name
    names = sorted(p.name for p in parent.iterdir())
    match = difflib.get_close_matches(missing, names, n=1, cutoff=0.6)
    if match:
        return f"; did you mean {str(parent / match[0])!r}?"
    return f"; the nearest folder that exists is {str(parent)!r}"


def split_folder(path: Path, names: Sequence[str]) -> Path | None:
    """The first subfolder of `path` with one of these names; None if there is none."""
    return next((path / n for n in names if (path / n).is_dir()), None)
