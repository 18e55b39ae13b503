"""Readers of timm's datasets, named by the prefixes torch/, hfds/, hfids/ and tfds/.

The shards of wds/ are read by `wds_shards`.

The prefixes are those of `timm.data.create_dataset`. A dataset is written `PREFIX/NAME` or
`PREFIX/NAME#SPLIT`: `torch/cifar10`, `hfds/uoft-cs/cifar10#test`,
`wds/shards#train-{0000..0012}.tar`. Without a split, --data reads the training split, and
--eval-data the validation split or, if there is none, the test split.
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

from headsearch.data.image.dataset_items import LABEL_KEYS
from headsearch.data.image.decode import BROKEN, BadImage, decode, open_image, square, to_array
from headsearch.data.image.source import Source
from headsearch.data.image.wide_values import kind_of
from headsearch.errors import UserError, unknown

PACKAGES = {
    "torch": "torchvision",
    "hfds": "datasets",
    "hfids": "datasets",
    "tfds": "tensorflow_datasets",
}
"""The prefixes of data sets that timm reads, and the package that each needs."""
PREFIXES = (*PACKAGES, "wds")
"""All prefixes. The shards of wds/ need no package: they are read as other tars are."""

_TORCH_NAMES = (
    "cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist", "inaturalist", "inat",
    "places365", "imagenet", "image_folder", "folder",
)  # fmt: skip
"""The datasets that timm knows under torch/."""
_SPLITS = {"train": ("train",), "eval": ("validation", "val", "valid", "test")}
"""The splits to try by role where none is named."""


@dataclass(frozen=True)
class TimmSpec:
    """The parsed form of `PREFIX/NAME#SPLIT`, with the folder of the data.

    Attributes:
        text: the spec as written.
        prefix: a key of `PACKAGES`.
        name: the library's name of the dataset; for wds, the folder of the shards.
        splits: the split, or those to try in turn.
        data_dir: the folder in which the library finds and stores data. None for the library's
            default, and for `data` with torchvision, which has no default.
        download: whether missing data may be downloaded.
    """

    text: str
    prefix: str
    name: str
    splits: tuple[str, ...]
    data_dir: Path | None
    download: bool

    @property
    def reads_a_folder(self) -> bool:
        """Whether it names a folder of images rather than a dataset."""
        return self.prefix == "torch" and self.name.lower() in ("image_folder", "folder")


def parse(spec: str, role: str, data_dir: Path | None, download: bool) -> TimmSpec | None:
    """Parses a spec; None if it does not start with a prefix.

    Args:
        spec: the value of --data or --eval-data.
        role: "train" or "eval", which decides the split if the spec names none.
        data_dir: the folder of the data.
        download: whether missing data may be downloaded.

    Raises:
        UserError: torchvision has no such dataset, or the package of the prefix is missing.
    """
    text, _, split = spec.partition("#")
    prefix, slash, name = text.partition("/")
    prefix = prefix.lower()
    if not slash or prefix not in PREFIXES:
        return None
    if prefix == "torch" and name.lower() not in _TORCH_NAMES:
        raise unknown("torch/ dataset", name, _TORCH_NAMES)
    if prefix in PACKAGES and importlib.util.find_spec(PACKAGES[prefix]) is None:
        package = PACKAGES[prefix].replace("_", "-")
        raise UserError(f"{spec} needs the package {package!r}: pip install {package}")
    return TimmSpec(spec, prefix, name, (split,) if split else _SPLITS[role], data_dir, download)


def open_timm(
    spec: TimmSpec, count: int | None, max_image_size: int, memory_limit: int, seed: int
) -> Source:
    """Opens a dataset. A dataset without random access (a stream) is read into memory here.

    Args:
        spec: the dataset.
        count: the number of images to read from a stream; None for all.
        max_image_size: images of a stream are kept at no more than this size.
        memory_limit: the most bytes of pixels to keep of a stream.
        seed: the order of a stream, if its library can shuffle.

    Raises:
        UserError: the dataset does not exist or cannot be read.
    """
    keys = _columns(spec) if spec.prefix in ("hfds", "hfids") else {}
    dataset = _create(spec, seed, keys)
    if spec.prefix in ("torch", "hfds"):
        return MapSource(spec, dataset)
    return StreamSource(spec, dataset, count, max_image_size, memory_limit)


def _create(spec: TimmSpec, seed: int, keys: dict[str, str]) -> Any:
    """timm's dataset for the first of the splits that exists."""
    from timm.data import create_dataset

    arguments: dict[str, Any] = {"root": spec.data_dir, "download": spec.download, "seed": seed}
    arguments |= keys
    if spec.prefix == "torch":
        arguments["root"] = spec.data_dir or Path("data")
        del arguments["seed"]
    elif spec.prefix == "hfds":
        del arguments["seed"]
    elif spec.prefix == "hfids":
        arguments["is_training"] = True  # shuffles the stream, which is often sorted by class
        arguments["input_img_mode"] = ""  # converted as the images of a folder are

    first: Exception | None = None
    for split in spec.splits:
        try:
            with _offline(not spec.download and spec.prefix in ("hfds", "hfids")):
                return create_dataset(f"{spec.prefix}/{spec.name}", split=split, **arguments)
        # timm calls five libraries here, each of which raises other exceptions for missing data.
        except Exception as error:
            first = first or error
            if isinstance(error, ConnectionError):  # other splits would fail in the same way
                break
    assert first is not None
    raise _not_there(spec, first) from first


def _not_there(spec: TimmSpec, error: Exception) -> UserError:
    """The error for a dataset that cannot be opened: the library's reason and what to do."""
    lines = str(error).strip().splitlines()
    reason = lines[0].split(". ")[0].rstrip(".") if lines else type(error).__name__
    folder = f" in {str(spec.data_dir or 'data')!r}" if spec.prefix == "torch" else ""
    advice = "" if spec.download else "; use --download to fetch it, or --data-dir if you have it"
    return UserError(f"{spec.text} cannot be opened{folder}: {reason}{advice}")


@contextlib.contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """Keeps Hugging Face's libraries offline within this context, if `wanted`.

    The environment variable HF_HUB_OFFLINE would be too late: both libraries read it on import.
    """
    if not wanted:
        yield
        return
    modules: list[Any] = [
        importlib.import_module("datasets.config"),
        importlib.import_module("huggingface_hub.constants"),
    ]
    before = [module.HF_HUB_OFFLINE for module in modules]
    try:
        for module in modules:
            module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


def _columns(spec: TimmSpec) -> dict[str, str]:
    """The image and label columns of a Hugging Face dataset, whose names are not standardised."""
    datasets: Any = importlib.import_module("datasets")
    try:
        with _offline(not spec.download):
            builder = datasets.load_dataset_builder(
                spec.name, cache_dir=None if spec.data_dir is None else str(spec.data_dir)
            )
            if builder.info.features is None:
                builder.as_streaming_dataset()  # infers the features from the first file
    except Exception as error:  # as in _create
        raise _not_there(spec, error) from error
    features = builder.info.features or {}
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    labels = labels or [name for name in LABEL_KEYS if _whole_numbers(features.get(name))]
    if not images:
        raise UserError(f"{spec.text} has no column of images (columns: {', '.join(features)})")
    # timm's reader requires a label column; that of the images stands for "none".
    return {"input_key": images[0], "target_key": labels[0] if labels else images[0]}


def _whole_numbers(feature: Any) -> bool:
    return str(getattr(feature, "dtype", "")).startswith(("int", "uint"))


class MapSource(Source):
    """A dataset with random access: torchvision's, or one of Hugging Face on disk."""

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
        self.labels, self.classes, self.notes = labels_from(self.name, targets, names)

    def __len__(self) -> int:
        return len(self._dataset)

    def pixels(self, index: int, size: int) -> NDArray[np.uint8]:
        if self._reader is not None:
            return decode(self._bytes(index), size, self.scale)
        return to_array(self._image(index), size, self.scale)

    def opened(self, index: int) -> Image.Image:
        return open_image(self._bytes(index)) if self._reader else self._image(index)

    def shorter_side(self, index: int) -> int:
        return min(self.opened(index).size)

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
    """The labels and class names of a torchvision dataset."""
    targets = getattr(dataset, "targets", None)
    if targets is None:  # iNaturalist
        return [category for category, _ in dataset.index], tuple(dataset.all_categories)
    targets = torch.as_tensor(targets)
    if targets.ndim == 2:  # QMNIST: the digit, then metadata about its writer
        targets = targets[:, 0]
    # The classes of ImageNet are tuples of synonyms.
    names = (c if isinstance(c, str) else ", ".join(c) for c in getattr(dataset, "classes", ()))
    return targets.tolist(), tuple(names)


class StreamSource(Source):
    """The first images of a dataset without random access, kept in memory.

    Args:
        spec: the dataset.
        dataset: timm's dataset.
        count: the number of images to read; None for all.
        max_image_size: larger images are reduced to squares of this size.
        memory: the most bytes of pixels to keep.
    """

    def __init__(
        self, spec: TimmSpec, dataset: Any, count: int | None, max_image_size: int, memory: int
    ) -> None:
        self.name = spec.text
        self._images: list[Image.Image] = []
        targets: list[Any] = []
        held = 0
        for image, target in itertools.islice(_samples(spec, dataset), count):
            with contextlib.suppress(*BROKEN):  # bad images are found and counted when decoded
                # More than 8 bits are scaled later, when all images of the stream are known.
                if min(image.size) > max_image_size and kind_of(image) is None:
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
        self.labels, self.classes, self.notes = labels_from(
            self.name, [int(target) for target in targets] if labelled else [], names
        )

    def __len__(self) -> int:
        return len(self._images)

    def pixels(self, index: int, size: int) -> NDArray[np.uint8]:
        return to_array(self._images[index], size, self.scale)

    def opened(self, index: int) -> Image.Image:
        return self._images[index]

    def shorter_side(self, index: int) -> int:
        return min(self._images[index].size)


def _samples(spec: TimmSpec, dataset: Any) -> Iterator[tuple[Image.Image, Any]]:
    """Yields (image, target) of a stream; errors of its library become a UserError."""
    with _offline(not spec.download and spec.prefix == "hfids"):
        try:
            yield from dataset
        except Exception as error:  # as in _create
            raise _not_there(spec, error) from error


def _class_names(class_to_idx: dict[str, int]) -> tuple[str, ...]:
    """The class names in the order of their indices."""
    return tuple(sorted(class_to_idx, key=class_to_idx.__getitem__))


def labels_from(
    name: str, targets: list[int], names: tuple[str, ...]
) -> tuple[Tensor | None, tuple[str, ...], tuple[str, ...]]:
    """Labels, class names and notes from the targets of a library, which write −1 for "unknown"."""
    if not len(targets):
        return None, (), ()
    labels = torch.as_tensor(targets, dtype=torch.int64)
    if labels.min() < 0:
        return None, (), (f"{name}: some images have no label, so it counts as unlabelled",)
    if len(names) <= int(labels.max()):
        names = tuple(str(i) for i in range(int(labels.max()) + 1))
    return labels, names, ()


def looks_like_prefix(spec: str) -> str | None:
    """The prefix that the first part of a spec resembles, for a hint in a message."""
    first = re.match(r"(\w+)[/:]", spec)
    if first is None:
        return None
    return next(iter(difflib.get_close_matches(first[1].lower(), PREFIXES, n=1)), None)
