"""`ListSource`: the images that a text file or CSV lists, with or without labels."""

from __future__ import annotations

from pathlib import PurePosixPath

from headsearch.data.file_kinds import IMAGES, FileKind
from headsearch.data.image.byte_ranges import LARGEST_FILE, is_url, read_head, read_range
from headsearch.data.image.file_source import FileSource
from headsearch.data.image.labelling import AUTO, Labelling
from headsearch.data.image.path_table import PathTable
from headsearch.text import counted


class ListSource(FileSource):
    """Listed images. Paths that are not absolute start at the folder of the list.

    Their folders are not taken as classes unless `--labels folders` says so: a list may name
    images of any places. Files that are missing are found, counted and listed when they are read.

    Args:
        table: the list.
        name: what the user called it.
        labelling: how labels are found where it has none.
        kind: what it lists.
    """

    def __init__(
        self,
        table: PathTable,
        name: str,
        labelling: Labelling = AUTO,
        kind: FileKind = IMAGES,
    ) -> None:
        self._folder = str(PurePosixPath(table.file).parent)
        if is_url(table.file):
            self._folder = table.file.rpartition("/")[0]
        own = table.labels
        missing = 0 if own is None else own.count("")
        chosen = labelling
        if labelling.mode == "auto" and not _names_some(labelling, table.paths):
            chosen = Labelling("none")
            if own is not None and not missing:
                chosen = Labelling("auto", table, required=True)
        super().__init__(name, list(dict.fromkeys(table.paths)), [], chosen, kind=kind)
        if chosen.mode == "none" and labelling.mode == "auto":
            self.notes += (_why_unlabelled(name, table, missing),)
        repeated = len(table.paths) - len(set(table.paths))
        if repeated:
            self.notes += (
                f"{name} lists {repeated} of its paths more than once; each counts once",
            )

    def read(self, index: int) -> bytes:
        return read_range(self._place(self.files[index]), 0, None, LARGEST_FILE)

    def head(self, index: int) -> bytes:
        return read_head(self._place(self.files[index]))

    def read_other(self, file: str) -> bytes:
        raise FileNotFoundError(file)  # a list holds images alone

    def _place(self, file: str) -> str:
        return file if file.startswith("/") or is_url(file) else f"{self._folder}/{file}"


def _names_some(labelling: Labelling, paths: list[str]) -> bool:
    """Whether `--labels` decides: a file that names none of the images is that of another set."""
    if labelling.table is None:
        return False
    return labelling.required or any(labelling.table.labels_of(paths))


def _why_unlabelled(name: str, table: PathTable, missing: int) -> str:
    if missing:
        rows = counted(len(table.paths), "row")
        return f"{name}: {missing} of its {rows} have no label, so it counts as unlabelled"
    why = f" ({table.note})" if table.note else ""
    return (
        f"{name} lists paths without labels{why}; --labels folders takes their folders as classes"
    )
