"""`RemoteSource`: the images below a URL that fsspec knows, such as `s3://bucket/images`.

Files are listed once and read when they are used; nothing is kept on this machine. A set that is
read more than once is better copied: each epoch fetches every image again.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from headsearch.data.file_kinds import IMAGES, FileKind
from headsearch.data.image.byte_ranges import (
    LARGEST_FILE,
    file_system,
    first_line,
    reached,
    read_head,
    read_range,
)
from headsearch.data.image.file_source import FileSource
from headsearch.data.image.label_files import LARGEST as LARGEST_LABEL
from headsearch.data.image.labelling import AUTO, Labelling
from headsearch.data.image.suffixes import is_hidden
from headsearch.errors import UserError


def remote_files(url: str) -> list[str]:
    """The relative names of the files below a URL, sorted, without hidden ones.

    Raises:
        UserError: it cannot be reached, or there is nothing.
    """
    filesystem, root = file_system(url)
    try:
        found: list[str] = reached(lambda: filesystem.find(root))
    except OSError as error:
        raise UserError(f"{url} cannot be reached: {first_line(error)}") from None
    if not found:
        raise UserError(f"{url} cannot be reached, or holds nothing that may be read")
    start = root.rstrip("/") + "/"
    names = [file.removeprefix(start) for file in found]
    return sorted(name for name in names if not any(map(is_hidden, PurePosixPath(name).parts)))


class RemoteSource(FileSource):
    """The images below a URL.

    Args:
        url: the folder.
        name: what the user called it.
        files: relative names of its files.
        labelling: how labels are found.
        kind: which files are read.
    """

    def __init__(
        self,
        url: str,
        name: str,
        files: list[str],
        labelling: Labelling = AUTO,
        kind: FileKind = IMAGES,
    ) -> None:
        self.url = url
        samples = [file for file in files if kind.includes(file)]
        others = [file for file in files if not kind.includes(file)]
        super().__init__(name, samples, others, labelling, kind=kind)

    def read(self, index: int) -> bytes:
        return read_range(f"{self.url}/{self.files[index]}", 0, None, LARGEST_FILE)

    def head(self, index: int) -> bytes:
        return read_head(f"{self.url}/{self.files[index]}")

    def read_other(self, file: str) -> bytes:
        return read_range(f"{self.url}/{file}", 0, None, LARGEST_LABEL)
