"""Datasets by the prefixes of `timm.data.create_dataset`: torch/, hfds/, hfids/, tfds/ and wds/.

Written `PREFIX/NAME` or `PREFIX/NAME#SPLIT`: `torch/cifar10`, `hfds/uoft-cs/cifar10#test`,
`wds/shards#train-{0000..0012}.tar`. Without a split, --data reads the training split and
--eval-data the validation split, or the test split where there is none.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from headsearch.data.image.decode import BROKEN, BadImage, decode, open_image, square, to_array
from headsearch.data.image.readers import Source, nearest
from headsearch.errors import UserError, unknown

PACKAGES = {
    "torch": "torchvision",
    "hfds": "datasets",
    "hfids": "datasets",
    "tfds": "tensorflow_datasets",
    "wds": "webdataset",
}
"""The prefixes, and what has to be installed for each."""

_TORCH_NAMES = (
    "cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist", "inaturalist", "inat",
    "places365", "imagenet", "image_folder", "folder",
)  # fmt: skip
_SPLITS = {"train": ("train",), "eval": ("validation", "val", "valid", "test")}


@dataclass(frozen=True)
class TimmSpec:
    """`PREFIX/NAME#SPLIT`, taken apart.

    Attributes:
        prefix: a key of `PACKAGES`.
        name: what the prefix's library calls the dataset; for wds, its folder.
        splits: the split, or those to try in turn.
        data_dir: where the library finds and keeps data; None: its own default, and `data` for
            torch, which has none.
        download: whether to fetch what is not there.
    """

    text: str
    prefix: str
    name: str
    splits: tuple[str, ...]
    data_dir: Path | None
    download: bool


def parse(spec: str, role: str, data_dir: Path | None, download: bool) -> TimmSpec | None:
    """Reads a spec; None if its first part is no prefix.

    Args:
        role: "train" or "eval": the split where none is named.

    Raises:
        UserError: an unknown torchvision dataset, or the prefix's package is not installed.
    """
    text, _, split = spec.partition("#")
    prefix, slash, name = text.partition("/")
    prefix = prefix.lower()
    if not slash or prefix not in PACKAGES:
        return None
    if prefix == "torch" and name.lower() not in _TORCH_NAMES:
        raise unknown("torch/ dataset", name, _TORCH_NAMES)
    if importlib.util.find_spec(PACKAGES[prefix]) is None:
        package = PACKAGES[prefix].replace("_", "-")
        raise UserError(f"{spec} needs the package {package!r}: pip install {package}")
    return TimmSpec(spec, prefix, name, (split,) if split else _SPLITS[role], data_dir, download)


def open_timm(
    spec: TimmSpec, count: int | None, max_image_size: int, memory_limit: int, seed: int
) -> Source:
    """Opens a dataset; one that is a stream is read into memory here.

    Args:
        count: images to read from a stream; None: all.
        max_image_size: images of a stream are kept no larger than this.
        memory_limit: bytes of pixels to keep of a stream.
        seed: orders a stream whose library can shuffle.

    Raises:
        UserError: the dataset is not there or cannot be read.
    """
    keys = _columns(spec) if spec.prefix in ("hfds", "hfids") else {}
    dataset = _create(spec, seed, keys)
    if spec.prefix in ("torch", "hfds"):
        return MapSource(spec, dataset)
    return StreamSource(spec, dataset, count, max_image_size, memory_limit)


def _create(spec: TimmSpec, seed: int, keys: dict[str, str]) -> Any:
    from timm.data import create_dataset

    arguments: dict[str, Any] = {"root": spec.data_dir, "download": spec.download, "seed": seed}
    arguments |= keys
    splits = spec.splits
    if spec.prefix == "torch":
        arguments["root"] = spec.data_dir or Path("data")
        del arguments["seed"]
    elif spec.prefix == "hfds":
        del arguments["seed"]
    elif spec.prefix == "hfids":
        arguments["is_training"] = True  # shuffles: a stream is often in the order of its classes
    elif spec.prefix == "wds":
        arguments["root"], splits = _shards(spec)
        arguments["input_key"] = "jpg;jpeg;png;webp"
        del arguments["download"]

    first: Exception | None = None
    for split in splits:
        try:
            with _offline(not spec.download and spec.prefix in ("hfds", "hfids")):
                return create_dataset(f"{spec.prefix}/{spec.name}", split=split, **arguments)
        # Five libraries behind one call, each with its own errors for "not there".
        except Exception as error:
            first = first or error
            if isinstance(error, ConnectionError):
                break
    assert first is not None
    raise _not_there(spec, first) from first


def _not_there(spec: TimmSpec, error: Exception) -> UserError:
    lines = str(error).strip().splitlines()
    reason = lines[0].split(". ")[0].rstrip(".") if lines else type(error).__name__
    place = f" in {str(spec.data_dir or 'data')!r}" if spec.prefix == "torch" else ""
    todo = "" if spec.download else "; --download fetches it, --data-dir DIR says where it lies"
    if spec.prefix == "wds":
        todo = "; name the shards, as in wds/FOLDER#train-{0000..0012}.tar"
    return UserError(f"{spec.text} cannot be opened{place}: {reason}{todo}")


@contextlib.contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """Keeps Hugging Face's libraries from fetching what nobody asked to download."""
    if not wanted:
        yield
        return
    places: list[Any] = [
        importlib.import_module("datasets.config"),
        importlib.import_module("huggingface_hub.constants"),
    ]
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _columns(spec: TimmSpec) -> dict[str, str]:
    """The image and label columns of a Hugging Face dataset, which each names as it likes."""
    datasets: Any = importlib.import_module("datasets")
    try:
        with _offline(not spec.download):
            builder = datasets.load_dataset_builder(
                spec.name, cache_dir=None if spec.data_dir is None else str(spec.data_dir)
            )
            if builder.info.features is None:
                builder.as_streaming_dataset()  # looks into the first file for them
    except Exception as error:  # as in _create
        raise _not_there(spec, error) from error
    features = builder.info.features or {}
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    if not images:
        raise UserError(f"{spec.text} has no column of images (columns: {', '.join(features)})")
    # The reader insists on a label column; the images' own stands for "none".
    return {"input_key": images[0], "target_key": labels[0] if labels else images[0]}


def _shards(spec: TimmSpec) -> tuple[Path, tuple[str, ...]]:
    """The folder of a webdataset, and its split: all shards in it if it does not say itself."""
    folder = Path(spec.name) if spec.data_dir is None else spec.data_dir / spec.name
    if not folder.is_dir():
        raise UserError(f"{spec.text}: no folder {str(folder)!r}{nearest(folder)}")
    described = any((folder / name).exists() for name in ("_info.json", "info.json"))
    if "#" in spec.text or described:
        return folder, spec.splits
    shards = sorted(path.name for path in folder.glob("*.tar"))
    if not shards:
        raise UserError(f"{spec.text}: no .tar shards in {str(folder)!r}")
    return folder, ("::".join(shards),)


class MapSource(Source):
    """A dataset that gives any image by its index: torchvision's, and Hugging Face's on disk."""

    def __init__(self, spec: TimmSpec, dataset: Any) -> None:
        self.name = spec.text
        self._dataset = dataset
        self._reader = getattr(dataset, "reader", None)
        if self._reader is not None:
            table, label = self._reader.dataset, self._reader.label_key
            labelled = label in table.column_names and label != self._reader.image_key
            targets = list(table[label]) if labelled else []
            names = _class_names(self._reader.class_to_idx)
        else:
            targets, names = _torch_targets(dataset)
        self.labels, self.classes, self.notes = _labels(self.name, targets, names)

    def __len__(self) -> int:
        return len(self._dataset)

    def pixels(self, index: int, size: int) -> NDArray[np.uint8]:
        if self._reader is not None:
            return decode(self._bytes(index), size)
        return to_array(self._image(index), size)

    def shorter_side(self, index: int) -> int:
        if self._reader is not None:
            return min(open_image(self._bytes(index)).size)
        return min(self._image(index).size)

    def _bytes(self, index: int) -> bytes:
        assert self._reader is not None
        with self._reader[index][0] as file:
            data: bytes = file.read()
        return data

    def _image(self, index: int) -> Image.Image:
        try:
            image: Image.Image = self._dataset[index][0]
        except BROKEN as error:
            raise BadImage(str(error)) from error
        return image


def _torch_targets(dataset: Any) -> tuple[list[int], tuple[str, ...]]:
    targets = getattr(dataset, "targets", None)
    if targets is None:  # iNaturalist
        return [category for category, _ in dataset.index], tuple(dataset.all_categories)
    targets = torch.as_tensor(targets)
    if targets.ndim == 2:  # QMNIST: the digit, then facts about its writer
        targets = targets[:, 0]
    # ImageNet's classes are tuples of synonyms.
    names = (c if isinstance(c, str) else ", ".join(c) for c in getattr(dataset, "classes", ()))
    return targets.tolist(), tuple(names)


class StreamSource(Source):
    """The first images of a dataset that can only be read from its start, kept in memory."""

    def __init__(
        self, spec: TimmSpec, dataset: Any, count: int | None, max_image_size: int, memory: int
    ) -> None:
        self.name = spec.text
        self._images: list[Image.Image] = []
        targets: list[Any] = []
        held = 0
        for image, target in itertools.islice(_samples(spec, dataset), count):
            with contextlib.suppress(*BROKEN):  # a bad image is found and counted when decoded
                if min(image.size) > max_image_size:
                    image = square(image, max_image_size)
            held += image.width * image.height * 3
            if held > memory:
                raise UserError(
                    f"{spec.text} is a stream that is read into memory, and its first "
                    f"{len(targets)} images fill {memory / 2**30:.1f} GiB: set --images"
                )
            self._images.append(image)
            targets.append(-1 if target is None else target)
        if not targets:
            raise UserError(f"{spec.text} gave no image (a sample needs an image and a class)")
        labelled = all(isinstance(target, (int, np.integer)) for target in targets)
        names = _class_names(dataset.reader.class_to_idx)
        self.labels, self.classes, self.notes = _labels(
            self.name, [int(target) for target in targets] if labelled else [], names
        )

    def __len__(self) -> int:
        return len(self._images)

    def pixels(self, index: int, size: int) -> NDArray[np.uint8]:
        return to_array(self._images[index], size)

    def shorter_side(self, index: int) -> int:
        return min(self._images[index].size)


def _samples(spec: TimmSpec, dataset: Any) -> Iterator[tuple[Image.Image, Any]]:
    with _offline(not spec.download and spec.prefix == "hfids"):
        try:
            yield from dataset
        except Exception as error:  # as in _create
            raise _not_there(spec, error) from error


def _class_names(class_to_idx: dict[str, int]) -> tuple[str, ...]:
    return tuple(sorted(class_to_idx, key=class_to_idx.__getitem__))


def _labels(
    name: str, targets: list[int], names: tuple[str, ...]
) -> tuple[Tensor | None, tuple[str, ...], tuple[str, ...]]:
    """Labels, class names and notes from a library's targets; −1 is how they write "unknown"."""
    if not len(targets):
        return None, (), ()
    labels = torch.as_tensor(targets, dtype=torch.int64)
    if labels.min() < 0:
        return None, (), (f"{name}: some images have no label, so it counts as unlabelled",)
    if len(names) <= int(labels.max()):
        names = tuple(str(i) for i in range(int(labels.max()) + 1))
    return labels, names, ()


def looks_like_prefix(spec: str) -> str | None:
    """The prefix that a spec's first part may be a slip of, for an error's hint."""
    first = re.match(r"(\w+)[/:]", spec)
    if first is None:
        return None
    return next(iter(difflib.get_close_matches(first[1].lower(), PACKAGES, n=1)), None)
