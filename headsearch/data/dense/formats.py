"""The formats of dense sets, and which one a folder has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from headsearch.data.dense.annotated import Annotated
from headsearch.data.dense.benchmarks import read_ade20k, read_cityscapes, read_pets
from headsearch.data.dense.coco import read_coco
from headsearch.data.dense.folders import read_folders
from headsearch.data.dense.voc import read_voc
from headsearch.data.dense.yolo import read_yolo
from headsearch.errors import UserError, unknown

FORMATS: dict[str, Callable[[Path], Annotated | None]] = {
    "coco": read_coco,
    "voc": read_voc,
    "cityscapes": read_cityscapes,
    "ade20k": read_ade20k,
    "pets": read_pets,
    "yolo": read_yolo,
    "folders": read_folders,
}
"""Readers by the name of their format, in the order in which they are tried."""
AUTO = "auto"


def read_annotated(path: Path, wanted: str, classes: str | None) -> Annotated:
    """Finds the images and annotations of a set.

    Args:
        path: the folder, or COCO's file.
        wanted: a name in `FORMATS`, or `AUTO` for the first that the layout fits.
        classes: `--dense-classes`.

    Raises:
        UserError: there is nothing there, or no format fits.
    """
    if wanted != AUTO and wanted not in FORMATS:
        raise unknown("--dense-format", wanted, (AUTO, *FORMATS))
    if not path.exists():
        raise UserError(f"--dense-data {path}: no such folder")
    if not path.is_dir() and path.suffix != ".json":
        raise UserError(f"--dense-data {path}: not a folder; unpack archives first")
    readers = FORMATS if wanted == AUTO else {wanted: FORMATS[wanted]}
    if not path.is_dir():
        readers = {"coco": read_coco}
    for name, read in readers.items():
        found = read_coco(path, classes) if name == "coco" else read(path)
        if found is not None and any(found.splits.values()):
            return found
    if wanted != AUTO:
        raise UserError(f"--dense-data {path}: its layout is not that of --dense-format {wanted}")
    raise UserError(
        f"--dense-data {path}: no images with masks or boxes were found; it should hold images/ "
        f"and masks/ with files of the same names, or be one of: {', '.join(FORMATS)}"
    )
