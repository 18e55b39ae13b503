"""`TarSource`: the images in uncompressed tars, and in tars inside them, read in place by an index.

The headers of each tar are read once, which gives the place and size of every member. After that
any image can be read at any time, so shards need no stream and no shuffle buffer: the order of the
images is drawn over all shards, as for a folder. Pixels are never held.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

from headsearch.data.file_kinds import IMAGES, FileKind
from headsearch.data.image.byte_ranges import LARGEST_FILE, is_url, read_head, read_range
from headsearch.data.image.file_source import FileSource, nothing_in
from headsearch.data.image.label_files import LARGEST as LARGEST_LABEL
from headsearch.data.image.labelling import AUTO, Labelling
from headsearch.data.image.tar_index import Members, members_of
from headsearch.text import counted

_REMOTE_THREADS = 16
"""Remote tars are indexed side by side: each waits for the network most of the time."""


class TarSource(FileSource):
    """The images in one or several tars.

    The names of images start with the name of their tar, without suffix, where there are several,
    and with the name of the inner tar where a tar holds tars.

    Args:
        tars: paths or URLs.
        name: what the user called them.
        labelling: how labels are found.
        kind: which files are read.
    """

    def __init__(
        self,
        tars: Sequence[str],
        name: str,
        labelling: Labelling = AUTO,
        kind: FileKind = IMAGES,
    ) -> None:
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
            repeated += members.repeated
            nested += members.nested
            empty += not any(map(kind.includes, members.places))
        files = sorted(file for file in self._places if kind.includes(file))
        others = sorted(self._places.keys() - set(files))
        if not files:
            raise nothing_in(name, others, kind)
        of_archives = several or nested > 0
        in_archives = of_archives and all("/" in file for file in files)
        super().__init__(name, files, others, labelling, of_archives=in_archives, kind=kind)
        self._keep_places()
        if empty:
            self.notes += (f"{name}: {empty} of {len(self._tars)} archives hold no {kind.noun}",)
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

    def head(self, index: int) -> bytes:
        tar = self._tars[self._numbers[index]]
        return read_head(tar, self._offsets[index], self._sizes[index])

    def read_other(self, file: str) -> bytes:
        number, offset, size = self._places[file]
        return read_range(self._tars[number], offset, size, LARGEST_LABEL)


def _all_members(tars: Sequence[str], name: str) -> list[Members]:
    names = [name if len(tars) == 1 else tar for tar in tars]
    if not is_url(tars[0]):
        return [members_of(tar, each) for tar, each in zip(tars, names, strict=True)]
    with ThreadPoolExecutor(_REMOTE_THREADS) as pool:
        return list(pool.map(members_of, tars, names))


def _stems(tars: Sequence[str]) -> list[str]:
    """The names of tars without suffix; with their folders where names are not unique."""
    stems = [PurePosixPath(tar).name.removesuffix(".tar") for tar in tars]
    if len(set(stems)) == len(stems):
        return stems
    return [tar.replace("://", "/").strip("/").removesuffix(".tar").replace("/", "-")
            for tar in tars]  # fmt: skip
