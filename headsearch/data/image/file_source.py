"""`FileSource`: images that are read as the bytes of files; the common part of several readers."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

import torch

from headsearch.data.file_kinds import IMAGES, FileKind
from headsearch.data.image.label_files import in_order, key
from headsearch.data.image.labelling import AUTO, Files, Labelling
from headsearch.data.image.path_table import PathTable
from headsearch.data.image.source import EncodedSource
from headsearch.errors import UserError
from headsearch.text import counted


class FileSource(EncodedSource):
    """Image files that are read as bytes: the common part of folders, archives and lists."""

    def __init__(
        self,
        name: str,
        files: Sequence[str],
        others: Sequence[str],
        labelling: Labelling = AUTO,
        *,
        of_archives: bool = False,
        kind: FileKind = IMAGES,
    ) -> None:
        """Derives classes and labels from relative file names.

        Args:
            name: what the user called the folder or archive.
            files: relative names of the images, in order, with / between parts.
            others: names of the files without the suffix of an image.
            labelling: how labels are found.
            of_archives: whether the first part of each name is that of an archive.
            kind: what the files are.

        Raises:
            UserError: there are no images, or the folders are splits rather than classes.
        """
        if not files:
            raise nothing_in(name, others, kind)
        self.name = name
        found = Files(name, list(files), list(others), of_archives, kind)
        found = found.labelled(labelling, self.read_other, self.known_table)
        notes = list(found.notes)
        self.files = found.images
        self.others, self.beside = _beside(found.images, found.others)
        if found.others:
            left_out = len(found.others)
            count = counted(
                left_out, f"file that is not {kind.a_noun}", f"files that are not {kind.nouns}"
            )
            notes.append(f"{name}: {count} left out")
        if found.labels is not None:
            distinct = set(found.labels)
            self.classes = in_order(found.labels) if found.by_number else tuple(sorted(distinct))
            number = {label: i for i, label in enumerate(self.classes)}
            self.labels = torch.tensor([number[label] for label in found.labels])
        self.notes = tuple(notes)

    def __len__(self) -> int:
        return len(self.files)

    @abstractmethod
    def read_other(self, file: str) -> bytes:
        """The bytes of one of the files that are not images. Raises BadImage or OSError."""

    def known_table(self) -> PathTable | None:
        """The table of labels that comes with a known data set, if the files are laid out so."""
        return None

    def describe(self, index: int) -> str:
        return self.files[index]


def nothing_in(name: str, others: Sequence[str], kind: FileKind = IMAGES) -> UserError:
    """The error for a place without images or clips, said once however many files it has."""
    if others:
        return UserError(
            f"{name} holds {counted(len(others), 'file')}, none {kind.a_noun} (for example "
            f"{others[0]!r}); {kind.nouns} end in {', '.join(kind.suffixes)}"
        )
    return UserError(
        f"{name} is empty: expected {kind.nouns}, or a folder of {kind.nouns} for each class"
    )


def _beside(images: Sequence[str], others: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """The files that are not beside an image of the same name, and how many are, by ending."""
    if not others:
        return [], {}
    keys = {key(image) for image in images}
    alone = [file for file in others if key(file) not in keys]
    endings = Counter(PurePosixPath(file).suffix.lower() for file in others if key(file) in keys)
    return alone, dict(sorted(endings.items()))
