"""`TableSource`: images in the rows of a Hugging Face data set on disk or of parquet files.

`datasets` maps its own format (Arrow) into memory, so any row can be read at any time and nothing
is held. Parquet cannot be read by rows; `datasets` converts it once into its cache, which takes as
much disk again.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from headsearch.data.image.byte_ranges import LARGEST_FILE, check_size, first_line, read_range
from headsearch.data.image.dataset_items import IMAGE_KEYS, LABEL_KEYS, LIKE_LABELS
from headsearch.data.image.decode import BadImage
from headsearch.data.image.label_files import in_order
from headsearch.data.image.source import EncodedSource
from headsearch.data.image.tables import Table
from headsearch.data.image.timm_readers import labels_from
from headsearch.errors import UserError
from headsearch.text import listing

WHOLE_NUMBERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
TEXTS = ("string", "large_string")
BYTES = ("binary", "large_binary")


class TableSource(EncodedSource):
    """The images in a column of a table.

    The images are the only column of images or of bytes, or the one called `image` or `img`. Labels
    are the only column of class names, or the only one of whole numbers or texts that is called
    like a label.

    Args:
        table: where it lies.
        labels: "auto" or "none".
        cache: the folder that parquet is converted into; None for that of `datasets`.

    Raises:
        UserError: `datasets` is not installed, the table cannot be read or has no rows, or it is
            not clear which column holds the images or the labels.
    """

    def __init__(self, table: Table, labels: str = "auto", cache: Path | None = None) -> None:
        self.name = table.name
        if labels not in ("auto", "none"):
            raise UserError(
                f"--labels {labels} is for image files, and {table.name} is a table, whose labels "
                "are a column: leave it out, or use --labels none"
            )
        rows = _opened(table, cache)
        if not len(rows):
            raise UserError(f"{table.name} has no rows")
        image = _image_column(table.name, rows.features)
        label = _label_column(table.name, rows.features) if labels == "auto" else None
        if table.left_out:
            others = listing(list(table.left_out))
            self.notes += (f"{table.name}: its other splits ({others}) are left out",)
        if label is not None:
            self._read_labels(rows, label)
        self._image = image
        self._rows = _undecoded(rows.select_columns([image]), image)

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> bytes:
        try:
            value = self._rows[index][self._image]
        except Exception as error:  # Arrow's errors for damaged files
            raise OSError(first_line(error)) from error
        if isinstance(value, dict):
            if value.get("bytes") is None and value.get("path"):
                return read_range(str(value["path"]), 0, None, LARGEST_FILE)
            value = value.get("bytes")
        if not isinstance(value, bytes):
            raise BadImage("no image in this row")
        check_size(len(value), LARGEST_FILE)
        return value

    def _read_labels(self, rows: Any, label: str) -> None:
        values = list(rows[label])
        names = tuple(getattr(rows.features[label], "names", None) or ())
        if any(value is None for value in values):
            self.notes += (f"{self.name}: some images have no label, so it counts as unlabelled",)
            return
        if isinstance(values[0], str):
            names = in_order(values)
            number = {name: i for i, name in enumerate(names)}
            values = [number[value] for value in values]
        self.labels, self.classes, notes = labels_from(self.name, values, names)
        self.notes += notes


def _opened(table: Table, cache: Path | None) -> Any:
    if importlib.util.find_spec("datasets") is None:
        raise UserError(f"{table.name} needs the package 'datasets': pip install datasets")
    datasets: Any = importlib.import_module("datasets")
    try:
        if table.saved is not None:
            return datasets.load_from_disk(str(table.saved))
        folder = None if cache is None else str(cache)
        return datasets.Dataset.from_parquet(list(table.parquet), cache_dir=folder)
    except Exception as error:  # of Arrow and of its formats
        raise UserError(f"{table.name} cannot be read as a table: {first_line(error)}") from None


def _undecoded(rows: Any, column: str) -> Any:
    """The rows with the bytes of their images, where `datasets` would decode them."""
    datasets: Any = importlib.import_module("datasets")
    if isinstance(rows.features[column], datasets.Image):
        return rows.cast_column(column, datasets.Image(decode=False))
    return rows


def _image_column(name: str, features: Any) -> str:
    """The column of the images: the only one of images, else of bytes; the usual names decide."""
    datasets: Any = importlib.import_module("datasets")
    images = [c for c, kind in features.items() if isinstance(kind, datasets.Image)]
    images = images or [c for c, kind in features.items() if _holds_bytes(kind)]
    usual = [column for column in images if column in IMAGE_KEYS]
    chosen = usual if len(images) > 1 else images
    if len(chosen) != 1:
        raise UserError(
            f"{name}: which column holds the images is not clear: of its columns "
            f"{listing(list(features))}, {listing(images) or 'none'} may; exactly one must be of "
            f"images or bytes, or be called {' or '.join(IMAGE_KEYS)}"
        )
    return str(chosen[0])


def _holds_bytes(kind: Any) -> bool:
    if isinstance(kind, dict):  # {"bytes": …, "path": …}, as parquet has images without metadata
        return "bytes" in kind and _holds_bytes(kind["bytes"])
    return getattr(kind, "dtype", None) in BYTES


def _label_column(name: str, features: Any) -> str | None:
    """The column of the labels; None if there is none."""
    found = [column for column, kind in features.items() if hasattr(kind, "names")]
    if not found:
        found = [column for column, kind in features.items() if _like_label(column, kind)]
    usual = [column for column in found if column in LABEL_KEYS]
    chosen = usual if len(found) > 1 else found
    if len(found) > 1 and len(chosen) != 1:
        raise UserError(
            f"{name}: which column holds the labels is not clear: {listing(found)} may; rename "
            f"one to {LABEL_KEYS[0]}, or use --labels none"
        )
    return chosen[0] if chosen else None


def _like_label(column: str, kind: Any) -> bool:
    word = column.lower().replace("-", "_").split("_")[-1]
    return word in LIKE_LABELS and getattr(kind, "dtype", None) in (*WHOLE_NUMBERS, *TEXTS)
