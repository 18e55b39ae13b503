"""`TarSource`: the images in uncompressed tars, and in tars inside them, read in place by an index.

The headers of each tar are read once, which gives the place and size of every member. After that
any image can be read at any time, so shards need no stream and no shuffle buffer: the order of the
images is drawn over all shards, as for a folder. Pixels are never held.
"""

from __future__ import annotations

import tarfile
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO

from headsearch.data.image.byte_ranges import (
    LARGEST_FILE,
    first_line,
    is_url,
    open_binary,
    read_range,
)
from headsearch.data.image.file_source import FileSource, nothing_in
from headsearch.data.image.label_files import LARGEST as LARGEST_LABEL
from headsearch.data.image.labelling import AUTO, Labelling
from headsearch.data.image.suffixes import is_hidden, is_image
from headsearch.errors import UserError
from headsearch.text import counted

_REMOTE_THREADS = 16
"""Remote tars are indexed side by side: each waits for the network most of the time."""


@dataclass
class _Members:
    """The files in one tar: where their bytes lie, by name.

    Attributes:
        places: offset and size in bytes, by name.
        repeated: names that occurred more than once; the last one counts.
        nested: whether some of them lie in a tar inside the tar.
    """

    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    repeated: set[str] = field(default_factory=set)
    nested: bool = False

    def add(self, name: str, offset: int, size: int) -> None:
        if name in self.places:
            self.repeated.add(name)
        self.places[name] = offset, size


def _members(tar: str, name: str) -> _Members:
    """Reads the headers of a tar, and of the tars in it; raises UserError."""
    members = _Members()
    try:
        with open_binary(tar) as file:
            inner = _read_headers(file, members, "", None)
        for stem, (offset, size) in inner.items():
            members.nested = True
            with open_binary(tar) as file:
                file.seek(offset)
                _read_headers(file, members, f"{stem}/", offset + size)
    except tarfile.TarError as error:
        raise UserError(
            f"{name} cannot be read as a tar ({error}); it must be complete and not compressed"
        ) from error
    except OSError as error:
        verb = "reached" if is_url(tar) else "read"
        raise UserError(f"{name} cannot be {verb}: {error.strerror or first_line(error)}") from None
    return members


def _read_headers(
    file: IO[bytes], members: _Members, prefix: str, end: int | None
) -> dict[str, tuple[int, int]]:
    """Adds the files of a tar to the members.

    Args:
        file: stands at the start of the tar.
        members: gets the files.
        prefix: what their names get in front.
        end: where the tar ends; None for the end of the file.

    Returns:
        The tars in it, by their names without suffix: offset and size.
    """
    inner = {}
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for info in tar:
            tar.members = []  # type: ignore[attr-defined]  # it would keep every header
            path = PurePosixPath(info.name)
            if any(map(is_hidden, path.parts)):
                continue
            if end is not None and info.offset_data + info.size > end:
                break
            linked = prefix + str(PurePosixPath(info.linkname))
            if info.islnk() and linked in members.places:
                # the same file under a second name
                members.add(prefix + str(path), *members.places[linked])
            elif info.isreg() and path.suffix == ".tar" and not prefix:
                inner[str(path.with_suffix(""))] = info.offset_data, info.size
            elif info.isreg():
                members.add(prefix + str(path), info.offset_data, info.size)
            # other links and devices have no content in the archive
    return inner


class TarSource(FileSource):
    """The images in one or several tars.

    The names of images start with the name of their tar, without suffix, where there are several,
    and with the name of the inner tar where a tar holds tars.

    Args:
        tars: paths or URLs.
        name: what the user called them.
        labelling: how labels are found.
    """

    def __init__(self, tars: Sequence[str], name: str, labelling: Labelling = AUTO) -> None:
        self._tars = list(dict.fromkeys(tars))
        several = len(self._tars) > 1
        stems = _stems(self._tars) if several else [""]
        # Where each file lies: the number of its tar, the offset and the size in bytes.
        self._places: dict[str, tuple[int, int, int]] = {}
        repeated = nested = empty = 0
        for number, members in enumerate(_all_members(self._tars, name)):
            prefix = f"{stems[number]}/" if several else ""
            for file, (offset, size) in members.places.items():
                self._places[prefix + file] = number, offset, size
            repeated += len(members.repeated)
            nested += members.nested
            empty += not any(map(is_image, members.places))
        files = sorted(file for file in self._places if is_image(file))
        others = sorted(self._places.keys() - set(files))
        if not files:
            raise nothing_in(name, others)
        of_archives = several or nested > 0
        super().__init__(
            name, files, others, labelling, of_archives=of_archives and all("/" in f for f in files)
        )
        self._keep_places()
        if empty:
            self.notes += (f"{name}: {empty} of {len(self._tars)} archives hold no image",)
        if repeated:
            members_ = counted(repeated, "member")
            self.notes += (f"{name} holds {members_} more than once; the last is used",)

    def _keep_places(self) -> None:
        """Keeps the places of the images alone, as numbers: a set may have millions."""
        places = [self._places[file] for file in self.files]
        self._numbers = array("l", [number for number, _, _ in places])
        self._offsets = array("q", [offset for _, offset, _ in places])
        self._sizes = array("q", [size for _, _, size in places])
        self._places = {}

    def read(self, index: int) -> bytes:
        tar = self._tars[self._numbers[index]]
        return read_range(tar, self._offsets[index], self._sizes[index], LARGEST_FILE)

    def read_other(self, file: str) -> bytes:
        number, offset, size = self._places[file]
        return read_range(self._tars[number], offset, size, LARGEST_LABEL)


def _all_members(tars: Sequence[str], name: str) -> list[_Members]:
    names = [name if len(tars) == 1 else tar for tar in tars]
    if not is_url(tars[0]):
        return [_members(tar, each) for tar, each in zip(tars, names, strict=True)]
    with ThreadPoolExecutor(_REMOTE_THREADS) as pool:
        return list(pool.map(_members, tars, names))


def _stems(tars: Sequence[str]) -> list[str]:
    """The names of tars without suffix; with their folders where names are not unique."""
    stems = [PurePosixPath(tar).name.removesuffix(".tar") for tar in tars]
    if len(set(stems)) == len(stems):
        return stems
    return [tar.replace("://", "/").strip("/").removesuffix(".tar").replace("/", "-")
            for tar in tars]  # fmt: skip
