"""Opens a path or a URL as a `Source` of image files: a folder, archives, a list of paths.

Archives are read in place and never unpacked to disk. Names inside an archive only serve as labels,
never as paths.
"""

from __future__ import annotations

import difflib
import glob
import os
from collections.abc import Iterator
from pathlib import Path

from headsearch.data.file_kinds import IMAGES, FileKind
from headsearch.data.image.brace_lists import expand, is_pattern
from headsearch.data.image.byte_ranges import LARGEST_FILE, is_url, read_head, read_range
from headsearch.data.image.file_source import FileSource
from headsearch.data.image.label_files import LARGEST as LARGEST_LABEL
from headsearch.data.image.labelling import AUTO, Labelling, class_folders
from headsearch.data.image.layouts import EVAL_FOLDERS, TRAIN_FOLDERS, of_split, split_folder
from headsearch.data.image.listed import ListSource
from headsearch.data.image.path_table import LIST_SUFFIXES, PathTable
from headsearch.data.image.remote import RemoteSource, remote_files
from headsearch.data.image.source import Source
from headsearch.data.image.suffixes import is_hidden, is_image
from headsearch.data.image.tar_source import TarSource
from headsearch.errors import UserError
from headsearch.text import counted

__all__ = [
    "EVAL_FOLDERS",
    "TRAIN_FOLDERS",
    "FileSource",
    "FolderSource",
    "Source",
    "TarSource",
    "class_folders",
    "files_below",
    "is_hidden",
    "is_image",
    "nearest",
    "open_named",
    "open_path",
    "split_folder",
]

SOLUTION = "LOC_val_solution.csv"
"""Kaggle's labels of ImageNet's validation images, which lie there in one folder."""
_LEVELS = 5
"""How many folders above the images it is looked for: it lies beside ILSVRC/Data/CLS-LOC/val."""


class FolderSource(FileSource):
    """The images below a folder, but for those below the folder `without`."""

    def __init__(
        self,
        path: Path,
        name: str,
        without: Path | None = None,
        labelling: Labelling = AUTO,
        files: list[str] | None = None,
        kind: FileKind = IMAGES,
    ) -> None:
        self.path = path
        images: list[str] = []
        others: list[str] = []
        for file in files_below(path, without) if files is None else files:
            (images if kind.includes(file) else others).append(file)
        super().__init__(name, sorted(images), sorted(others), labelling, kind=kind)

    def read(self, index: int) -> bytes:
        return read_range(str(self.path / self.files[index]), 0, None, LARGEST_FILE)

    def head(self, index: int) -> bytes:
        return read_head(str(self.path / self.files[index]))

    def read_other(self, file: str) -> bytes:
        return read_range(str(self.path / file), 0, None, LARGEST_LABEL)

    def known_table(self) -> PathTable | None:
        solution = imagenet_solution(self.path)
        return PathTable.read(str(solution)) if solution is not None else None


def imagenet_solution(folder: Path) -> Path | None:
    """Kaggle's file of labels for a folder of ImageNet's validation images; None elsewhere."""
    if split_of_kaggle(folder) != "val":
        return None
    parents = folder.absolute().parents[:_LEVELS]
    return next((p / SOLUTION for p in parents if (p / SOLUTION).is_file()), None)


def split_of_kaggle(folder: Path) -> str | None:
    """The split of a folder inside Kaggle's ImageNet (ILSVRC/Data/CLS-LOC); None elsewhere."""
    return folder.name if folder.absolute().parent.name == "CLS-LOC" else None


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
        relative = Path(folder).relative_to(root).as_posix()
        start = "" if relative == "." else f"{relative}/"
        yield from (f"{start}{file}" for file in files if not is_hidden(file))


def open_named(
    spec: str,
    role: str,
    labelling: Labelling = AUTO,
    without: Path | None = None,
    kind: FileKind = IMAGES,
) -> FileSource:
    """Opens what a user names: a path, a URL, or several archives.

    Args:
        spec: a folder, an archive or a list, as a path or a URL; or archives as a brace list
            (`train-{0000..0012}.tar`), with wildcards (`train-*.tar`), or with :: between them.
        role: "train" or "eval", which decides where archives have names of splits.
        labelling: how labels are found.
        without: a folder inside the one that is named, which is left out.
        kind: which files are read.

    Raises:
        UserError: nothing of this name exists or can be read, or it contains no image.
    """
    here = not is_url(spec) and Path(spec).expanduser().exists()
    if not here and is_pattern(spec):
        return TarSource(_archives_of(spec), spec, labelling, kind)
    if is_url(spec):
        return _open_url(spec, role, labelling, kind)
    return open_path(Path(spec).expanduser(), spec, without, labelling, role, kind)


def _archives_of(spec: str) -> list[str]:
    """The archives of a brace list or a pattern; missing files are an error."""
    found: list[str] = []
    for name in expand(spec):
        if is_url(name):
            found.append(name)
            continue
        path = Path(name).expanduser()
        matching = sorted(glob.glob(str(path))) if not path.exists() else [str(path)]  # noqa: PTH207
        if not matching:
            raise UserError(f"{spec}: {name} does not exist{nearest(path)}")
        found += matching
    return found


def _open_url(spec: str, role: str, labelling: Labelling, kind: FileKind) -> FileSource:
    path = spec.rstrip("/")
    if tarfile_like(path):
        return TarSource([path], spec, labelling, kind)
    if path.lower().endswith(LIST_SUFFIXES):
        return ListSource(PathTable.read(path), spec, labelling, kind)
    files = remote_files(path)
    archives = [file for file in files if file.endswith(".tar")]
    if archives and not any(map(kind.includes, files)):
        return _open_archives(path, spec, archives, role, labelling, kind)
    return RemoteSource(path, spec, files, labelling, kind)


def open_path(
    path: Path,
    name: str,
    without: Path | None = None,
    labelling: Labelling = AUTO,
    role: str = "train",
    kind: FileKind = IMAGES,
) -> FileSource:
    """Opens a folder of images or of archives, an archive, or a list of paths.

    Args:
        path: the folder, archive or list.
        name: what the user called it.
        without: a folder inside it that is left out.
        labelling: how labels are found.
        role: "train" or "eval", which decides where archives have names of splits.
        kind: which files are read.

    Raises:
        UserError: it does not exist, is none of these, or contains no image.
    """
    if path.is_dir():
        files = list(files_below(path, without))
        archives = sorted(file for file in files if file.endswith(".tar"))
        if archives and not any(map(kind.includes, files)):
            return _open_archives(str(path), name, archives, role, labelling, kind)
        return FolderSource(path, name, without, labelling, files, kind)
    if path.is_file() and tarfile_like(str(path)):
        return TarSource([str(path)], name, labelling, kind)
    if path.is_file() and path.suffix.lower() in LIST_SUFFIXES:
        return ListSource(PathTable.read(str(path)), name, labelling, kind)
    if path.exists():
        raise UserError(
            f"{name} is neither a folder nor a .tar of {kind.nouns}, nor a list of paths "
            f"({', '.join(LIST_SUFFIXES)})"
        )
    raise UserError(f"{name} does not exist{nearest(path)}")


def _open_archives(
    folder: str, name: str, archives: list[str], role: str, labelling: Labelling, kind: FileKind
) -> FileSource:
    """The archives in a folder; where their names have splits, those of the role."""
    words = TRAIN_FOLDERS if role == "train" else EVAL_FOLDERS
    used, unused = of_split(sorted(archives), words)
    source = TarSource([f"{folder}/{file}" for file in used], name, labelling, kind)
    if unused:
        source.notes += (
            f"{name}: {counted(len(unused), 'archive')} of other splits left out (for example "
            f"{unused[0]}); name them as {folder}/….tar to use them",
        )
    return source


def tarfile_like(path: str) -> bool:
    """Whether the suffix of a file is that of a tar, compressed ones included.

    A compressed tar is opened as well, so that the message says that it must not be compressed.
    """
    suffixes = Path(path).suffixes
    return ".tar" in suffixes or suffixes[-1:] == [".tgz"]


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
