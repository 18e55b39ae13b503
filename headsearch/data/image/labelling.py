"""Which label each image file has: by its folder, a file beside it, or a table (`--labels`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from headsearch.data.file_kinds import IMAGES, FileKind
from headsearch.data.image.byte_ranges import is_url
from headsearch.data.image.label_files import labels_beside
from headsearch.data.image.layouts import (
    EVAL_FOLDERS,
    TRAIN_FOLDERS,
    Kind,
    annotation_folders,
    kind_of_archives,
    kind_of_folders,
)
from headsearch.data.image.path_table import PathTable
from headsearch.errors import UserError
from headsearch.text import counted

MODES = ("auto", "folders", "none")
"""The values of `--labels` that are not the name of a file."""
DECIDE = "--labels folders takes them as classes, --labels none goes on without labels"


@dataclass(frozen=True)
class Labelling:
    """How the labels of image files are found.

    Attributes:
        mode: "auto"; "folders" for the folders whatever their names; "none" for no labels.
        table: labels by file name, which come first; None without such a table.
        required: whether it is an error if the table names none of the images.
    """

    mode: str = "auto"
    table: PathTable | None = None
    required: bool = False

    @classmethod
    def of(cls, setting: str, *, required: bool) -> Labelling:
        """The labelling that `--labels` names.

        Args:
            setting: one of `MODES`, or a file.
            required: as in the class.

        Raises:
            UserError: there is no such file, or it cannot be read.
        """
        if setting in MODES:
            return cls(setting)
        file = setting if is_url(setting) else str(Path(setting).expanduser())
        if not is_url(file) and not Path(file).is_file():
            raise UserError(f"--labels is {', '.join(MODES)} or a file, and {setting!r} is no file")
        return cls("auto", PathTable.read(file), required)


AUTO = Labelling()


@dataclass(frozen=True)
class Files:
    """Image files, and what of their labels was found.

    Attributes:
        name: what the user called the source.
        images: relative names of the images, with / between parts.
        others: relative names of the other files.
        of_archives: whether the first part of each name is that of an archive.
        kind: what the files are.
        labels: one for each image, or None.
        by_number: whether labels that are numbers are sorted as numbers.
        notes: what was decided.
    """

    name: str
    images: list[str]
    others: list[str]
    of_archives: bool = False
    kind: FileKind = IMAGES
    labels: list[str] | None = None
    by_number: bool = False
    notes: tuple[str, ...] = field(default=())

    def with_note(self, note: str) -> Files:
        return replace(self, notes=(*self.notes, note))

    def _counted(self, number: int) -> str:
        return counted(number, self.kind.noun)

    def labelled(
        self,
        how: Labelling,
        read: Callable[[str], bytes],
        known_table: Callable[[], PathTable | None],
    ) -> Files:
        """Finds the labels; images of evaluation splits among the classes are left out.

        Args:
            how: `--labels`.
            read: returns the bytes of one of the other files; raises BadImage or OSError.
            known_table: returns a table of labels that the layout of a known data set has.

        Raises:
            UserError: folders may be classes or not, or the table names only some of the images.
        """
        annotations = annotation_folders({*(class_folders(self.images) or ())})
        if annotations:
            files = self._without_annotations(annotations)
            return files.labelled(how, read, known_table)
        if how.table is not None:
            found = self._from_table(how.table)
            if found.labels is not None:
                return found
            if how.required:
                raise UserError(
                    f"--labels {how.table.file} names none of the "
                    f"{self._counted(len(self.images))} of {self.name} (for example "
                    f"{self.images[0]!r}, and there {how.table.paths[0]!r})"
                )
            note = f"{self.name}: {how.table.file} names none of its {self.kind.nouns}"
            return self.with_note(note).labelled(AUTO, read, known_table)
        if how.mode == "none":
            return self
        folders = self._folders()
        if how.mode == "folders":
            if folders is None:
                raise UserError(
                    f"{self.name}: --labels folders needs each {self.kind.noun} in a folder of its "
                    f"class, and some are not (for example {self._outside()!r})"
                )
            return replace(self, labels=folders)
        return self._by_default(folders, read, known_table)

    def _without_annotations(self, annotations: Collection[str]) -> Files:
        """Leaves out masks and maps of the images, which are in folders of their own."""
        folders = class_folders(self.images) or []
        placed = zip(self.images, folders, strict=True)
        kept = [image for image, folder in placed if folder not in annotations]
        left_out = len(self.images) - len(kept)
        return replace(self, images=kept).with_note(
            f"{self.name}: {self._counted(left_out)} in {', '.join(sorted(annotations))} left "
            "out as annotations"
        )

    def _by_default(
        self,
        folders: list[str] | None,
        read: Callable[[str], bytes],
        known_table: Callable[[], PathTable | None],
    ) -> Files:
        files = self
        if folders is not None:
            files, folders = self._without_splits(folders)
        in_folders = folders is not None
        if folders is not None and files._are_shards(folders):
            shown = ", ".join(sorted(set(folders))[:3])
            what = "archives" if files.of_archives else "folders"
            files = files.with_note(
                f"{files.name}: its {what} ({shown}, …) are shards, not classes; --labels folders "
                "takes them as classes"
            )
            folders = None
        if folders is None or len(set(folders)) == 1:
            beside = labels_beside(files.name, files.images, files.others, read)
            files = files.with_note(beside.note) if beside.note else files
            if beside.labels is not None:
                others = [file for file in files.others if file not in beside.used]
                return replace(files, labels=beside.labels, others=others, by_number=True)
            table = known_table()
            if table is not None:
                labelled = files._from_table(table)
                return labelled if labelled.labels is not None else files
        if not in_folders and any("/" in file for file in files.images) and not files.of_archives:
            return files.with_note(
                f"{files.name}: {self.kind.nouns} lie beside folders of {self.kind.nouns}, so it "
                "counts as unlabelled"
            )
        return replace(files, labels=folders)

    def _from_table(self, table: PathTable) -> Files:
        """The labels of a table; without labels if it names none of the images."""
        found = table.labels_of(self.images)
        labels = [label for label in found if label is not None]
        if not labels:
            return self
        if len(labels) < len(found):
            missing = self.images[found.index(None)]
            raise UserError(
                f"{table.file} has no label for {len(found) - len(labels)} of the "
                f"{self._counted(len(found))} of {self.name} (for example {missing!r}); add "
                "them, or leave --labels out"
            )
        note = f"{self.name}: labels are read from {table.file}"
        return replace(self, labels=labels, by_number=True, notes=(*self.notes, note))

    def _folders(self) -> list[str] | None:
        """The folder of each image that may be its class; None if some have none."""
        if not self.of_archives:
            return class_folders(self.images)
        inside = class_folders([file.partition("/")[2] for file in self.images])
        if inside is not None and len(set(inside)) > 1:
            return inside
        return class_folders(self.images)

    def _are_shards(self, folders: list[str]) -> bool:
        """Whether the folders are shards; raises UserError if that is not clear, or for splits."""
        archives = self.of_archives and {*folders} == {f.partition("/")[0] for f in self.images}
        kind: Kind = (
            kind_of_archives(folders) if archives else kind_of_folders(self.images, folders)
        )
        names = sorted(set(folders))
        if kind == "splits":
            raise UserError(
                f"{self.name} holds splits ({', '.join(names)}), not classes; name one of them as "
                f"--data and another as --eval-data, or {DECIDE}"
            )
        if kind == "unclear":
            raise UserError(
                f"{self.name}: whether its folders ({', '.join(names[:3])}, …) are classes or "
                f"shards is not clear: {DECIDE}"
            )
        return kind == "shards"

    def _outside(self) -> str:
        return min(self.images, key=lambda file: file.count("/"))

    def _without_splits(self, folders: list[str]) -> tuple[Files, list[str]]:
        """Leaves out the files of folders among the classes that are named like evaluation splits.

        `train` is a class where it is not beside such a folder alone: there are images of trains.
        """
        splits = {folder for folder in folders if folder.lower() in EVAL_FOLDERS}
        if not splits or all(f.lower() in (*EVAL_FOLDERS, *TRAIN_FOLDERS) for f in set(folders)):
            return self, folders
        kept = [place for place, folder in enumerate(folders) if folder not in splits]
        note = (
            f"{self.name}: {', '.join(sorted(splits))} beside the classes is named like a split "
            f"and left out with its {self._counted(len(folders) - len(kept))}; rename it if it "
            "is a class"
        )
        files = replace(self, images=[self.images[place] for place in kept]).with_note(note)
        return files, [folders[place] for place in kept]


def class_folders(files: Sequence[str]) -> list[str] | None:
    """The class of every file: its first folder that not all files share; None without classes.

    `cifar10/cat/1.png` and `cifar10/dog/2.png` have the classes `cat` and `dog`, since all files
    share the folder `cifar10`. If all files are in one folder, that folder is their only class.

    Args:
        files: relative names with / between parts.

    Returns:
        A class for every file, or None if some file is not in a folder below the shared ones.
    """
    parents = [file.rpartition("/")[0] for file in files]
    parts = {parent: PurePosixPath(parent).parts for parent in set(parents)}  # few, of many files
    first = parts[parents[0]]
    if len(set(parts.values())) == 1:
        return [first[-1]] * len(files) if first else None
    depth = 0
    while all(p[: depth + 1] == first[: depth + 1] and len(p) > depth for p in parts.values()):
        depth += 1
    if any(len(p) == depth for p in parts.values()):
        return None
    return [parts[parent][depth] for parent in parents]
