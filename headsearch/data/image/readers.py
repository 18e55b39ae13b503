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
from PIL import Image
from torch import Tensor

from headsearch.data.image.decode import BadImage, decode, open_image
from headsearch.data.image.label_files import LARGEST as LARGEST_LABEL
from headsearch.data.image.label_files import LabelFiles, in_order, labels_beside
from headsearch.data.image.wide_values import NOMINAL, Scale
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
        scale: of images of more than 8 bits a value; see `survey`.
    """

    name: str
    scale: Scale = NOMINAL
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

    def opened(self, index: int) -> Image.Image | None:
        """Image `index` before it is decoded, if there is such a thing; raises as `pixels`."""
        return None

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
        notes: list[str] = []
        files = list(files)
        if (folders := class_folders(files)) is not None:
            files, folders = _without_splits(name, files, folders, notes)
        beside = LabelFiles()
        if folders is None or len(set(folders)) == 1:
            beside = labels_beside(name, files, others, self.read_other)
            notes += [beside.note] if beside.note else []
            others = [file for file in others if file not in beside.used]
            folders = beside.labels or folders
        self.files = files
        self.others = others
        if others:
            count = counted(len(others), "file that is not an image", "files that are not images")
            notes.append(f"{name}: {count} left out")
        if folders is not None:
            self.classes = in_order(folders) if beside.labels else tuple(sorted(set(folders)))
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

    @abstractmethod
    def read_other(self, file: str) -> bytes:
        """The bytes of one of the files that are not images. Raises BadImage or OSError."""

    def pixels(self, index: int, size: int) -> NDArray[np.uint8]:
        return decode(self.read(index), size, self.scale)

    def opened(self, index: int) -> Image.Image:
        return open_image(self.read(index))

    def shorter_side(self, index: int) -> int:
        return min(self.opened(index).size)

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


def _without_splits(
    name: str, files: list[str], folders: list[str], notes: list[str]
) -> tuple[list[str], list[str]]:
    """Leaves out the files of folders among the classes that are named like evaluation splits.

    `train` is a class where it is not beside such a folder alone: there are images of trains.
    """
    splits = {folder for folder in folders if folder.lower() in EVAL_FOLDERS}
    if not splits or all(f.lower() in (*EVAL_FOLDERS, *TRAIN_FOLDERS) for f in set(folders)):
        return files, folders
    kept = [place for place, folder in enumerate(folders) if folder not in splits]
    notes.append(
        f"{name}: {', '.join(sorted(splits))} beside the classes is named like a split and left "
        f"out with its {counted(len(files) - len(kept), 'image')}; rename it if it is a class"
    )
    return [files[place] for place in kept], [folders[place] for place in kept]


class FolderSource(FileSource):
    """The images below a folder, but for those below the folder `without`."""

    def __init__(self, path: Path, name: str, without: Path | None = None) -> None:
        self.path = path
        images: list[str] = []
        others: list[str] = []
        for file in files_below(path, without):
            (images if is_image(file) else others).append(file)
        super().__init__(name, sorted(images), sorted(others))

    def read(self, index: int) -> bytes:
        return self._bytes(self.files[index], LARGEST_FILE)

    def read_other(self, file: str) -> bytes:
        return self._bytes(file, LARGEST_LABEL)

    def _bytes(self, name: str, most: int) -> bytes:
        file = self.path / name
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device, reading which may never end
            raise BadImage("not a regular file")
        _check_size(status.st_size, most)
        return file.read_bytes()


def files_below(root: Path, without: Path | None = None) -> Iterator[str]:
    """Yields the relative names of all files below a folder, but not hidden ones.

    Links to folders are followed; each folder is read once, so that a cycle of links ends.

    Args:
        root: the folder.
        without: a folder that is left out with all that it holds.
    """
    seen = set() if without is None else {os.path.realpath(without)}
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        # In place, which `os.walk` takes as the folders to visit, in this order.
        subfolders[:] = sorted(s for s in subfolders if not is_hidden(s))
        relative = Path(folder).relative_to(root)
        yield from ((relative / f).as_posix() for f in files if not is_hidden(f))


def is_hidden(name: str) -> bool:
    """Whether no reader looks at a file or folder of this name, nor at what a folder holds.

    macOS adds `._x.jpg` and the folder `__MACOSX` to archives, for the metadata of x.jpg.
    """
    return (name.startswith(".") and name not in (".", "..")) or name == "__MACOSX"


def is_image(file: str) -> bool:
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
        members: dict[str, _Member] = {}
        repeated = set()
        try:
            with tarfile.open(path, "r:") as tar:
                for info in tar:
                    file = PurePosixPath(info.name)
                    if any(map(is_hidden, file.parts)):
                        continue
                    if info.islnk() and (linked := str(PurePosixPath(info.linkname))) in members:
                        member = members[linked]  # the same file under a second name
                    elif info.isreg():
                        member = _Member(info.offset_data, info.size)
                    else:
                        continue  # other links and devices have no content in the archive
                    repeated |= {str(file)} & members.keys()
                    members[str(file)] = member
        except tarfile.TarError as error:
            raise UserError(
                f"{name} cannot be read as a tar ({error}); it must be complete and not compressed"
            ) from error
        self._members = members
        files = sorted(file for file in members if is_image(file))
        super().__init__(name, files, sorted(members.keys() - set(files)))
        if repeated:
            self.notes += (
                f"{name} holds {counted(len(repeated), 'member')} more than once; the last is used",
            )

    def read(self, index: int) -> bytes:
        return self._bytes(self.files[index], LARGEST_FILE)

    def read_other(self, file: str) -> bytes:
        return self._bytes(file, LARGEST_LABEL)

    def _bytes(self, name: str, most: int) -> bytes:
        member = self._members[name]
        _check_size(member.size, most)
        # A new handle for each read, since threads and forked workers would share its position.
        with self.path.open("rb") as file:
            file.seek(member.offset)
            return file.read(member.size)


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise BadImage(f"{size} bytes, over the limit of {most}")


def open_path(path: Path, name: str, without: Path | None = None) -> FileSource:
    """Opens a folder or a .tar of images.

    Args:
        path: the folder or archive.
        name: what the user called it.
        without: a folder inside it that is left out.

    Raises:
        UserError: it does not exist, is neither a folder nor a tar, or contains no image.
    """
    if path.is_dir():
        return FolderSource(path, name, without)
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
