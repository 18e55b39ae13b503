"""Finds images, masks and lists of names in the folders of a dense set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from headsearch.data.image.layouts import split_word
from headsearch.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif")
MASK_ENDINGS = (
    "_mask", "-mask", "_masks", "_L", "_label", "_labels", "_gt", "_seg", "_segmentation",
    "_labelIds", "_gtFine_labelIds", "_gtFine_labelTrainIds", "_manual1",
)  # fmt: skip
"""What the names of masks may have behind the name of their image."""
LARGEST_TEXT = 2**30
"""The largest file of annotations in bytes; that of COCO's 118,000 training images has 450 MB."""
SPLITS = {"train": "train", "training": "train", "trainval": "train", "test": "test"}


def split_of(folder: str) -> str | None:
    """`train`, `val` or `test` if a folder's name is that of a split, else None."""
    word = split_word(folder)
    return None if word is None else SPLITS.get(word, "val")


def images_in(folder: Path) -> list[Path]:
    """The image files in a folder and below, sorted; hidden ones are left out."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def subfolder(folder: Path, names: Iterable[str]) -> Path | None:
    """The first subfolder with one of these names, whatever their case."""
    if not folder.is_dir():
        return None
    found = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    return next((found[name.lower()] for name in names if name.lower() in found), None)


def by_stem(folder: Path, files: Sequence[Path]) -> dict[str, Path]:
    """Files by their path below a folder, without suffix and without an ending of masks."""
    found: dict[str, Path] = {}
    for path in files:
        stem = str(PurePosixPath(path.relative_to(folder).with_suffix("").as_posix()))
        found.setdefault(stem, path)
        ending = max((e for e in MASK_ENDINGS if stem.endswith(e)), key=len, default="")
        found.setdefault(stem.removesuffix(ending), path)
    return found


def read_text(path: Path, most: int = LARGEST_TEXT) -> str:
    """The text of a file of annotations.

    Raises:
        UserError: it cannot be read, is too large, or is no text.
    """
    try:
        size = path.stat().st_size
        if size > most:
            raise UserError(f"{path}: {size:,} bytes; at most {most:,} are read")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is no text in UTF-8") from None


def below(folder: Path, name: object, file: Path) -> Path:
    """The path of a file that annotations name, which must lie in a folder.

    Args:
        folder: the folder.
        name: as the annotations have it.
        file: of the annotations, for the error.

    Raises:
        UserError: the name is no text, absolute, or leads out of the folder.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise UserError(f"{file}: an image has no file name: {name!r}")
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
        raise UserError(f"{file}: the file name {name!r} leads out of the data set's folder")
    return folder / Path(*parts.parts)


def names_in_lists(folder: Path | None) -> dict[str, list[str]]:
    """The names in `train.txt`, `val.txt`, `trainval.txt` and `test.txt` of a folder, by split.

    `trainval` takes the place of `train` where there is a `test`; else `train` and `val` are used.
    Lines may have further words, as in VOC's lists of a class.
    """
    if folder is None:
        return {}
    found = {
        name: [line.split()[0] for line in read_text(file, 2**24).splitlines() if line.strip()]
        for name in ("train", "val", "trainval", "test")
        if (file := folder / f"{name}.txt").is_file()
    }
    if "trainval" in found and ("test" in found or "train" not in found):
        found["train"] = found["trainval"]
    found.pop("trainval", None)
    return {name: names for name, names in found.items() if names}


def chosen(found: Mapping[str, Path], names: Iterable[str]) -> list[Path]:
    """The files with these names, without their suffix, in the order of the names."""
    return [found[name] for name in names if name in found]
