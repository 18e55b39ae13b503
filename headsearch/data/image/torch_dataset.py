"""`DatasetSource`: uses a map-style PyTorch dataset as a source of images."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Subset

from headsearch.data.image.dataset_items import item_form
from headsearch.data.image.decode import BROKEN, BadImage, to_array
from headsearch.data.image.readers import Source
from headsearch.errors import UserError
from headsearch.text import listing, with_article

WANTED = "a PIL image, a uint8 tensor (3, H, W) or a float tensor (3, H, W) in [0, 1]"
"""What an image of a dataset may be, for messages."""


class DatasetSource(Source):
    """A map-style dataset whose items are `image`, `(image, label)` or a dict with these.

    In a dict, as in datasets of Hugging Face, the image is called `image` or `img` and the label
    `label` or `fine_label`.

    Labels are whole numbers. A negative label, which torchvision uses for "unknown", makes the
    whole dataset unlabelled. Labels are read from the dataset's column of labels or its attribute
    `targets`, if one of them has a label for each item. Else they are read from the items, which
    reads every image once more.

    Args:
        dataset: has `__len__` and `__getitem__`. It is called from one thread at a time. Its
            transforms must not be random, so that an index always gives the same image.

    Raises:
        UserError: it is not such a dataset, is empty, or has items of another kind.
    """

    def __init__(self, dataset: Any) -> None:
        self.name = type(dataset).__name__
        if isinstance(dataset, Mapping):
            raise UserError(
                f"{self.name}: data must be one dataset, but is a dict with the keys "
                f"{listing([repr(key) for key in dataset])}; give one of its values"
            )
        if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
            raise UserError(
                f"{self.name}: data must be a name or a map-style dataset, with __len__ and "
                "__getitem__"
            )
        if len(dataset) == 0:
            raise UserError(f"{self.name} is empty")
        self._dataset = dataset
        # A dataset need not be thread-safe. Threads that share its file handle, for example, would
        # read each other's pixels.
        self._one_at_a_time = threading.Lock()
        self._form = item_form(dataset[0], self.name, _features(dataset))
        self.notes = (self._form.note,) if self._form.note else ()
        self._image(0)  # so that items of a wrong kind raise an error now
        if self._form.label is not None:
            self._read_labels(self._form.label)

    def __len__(self) -> int:
        return len(self._dataset)

    def pixels(self, index: int, size: int) -> NDArray[np.uint8]:
        return to_array(self._image(index), size, self.scale)

    def opened(self, index: int) -> Image.Image:
        return self._image(index)

    def shorter_side(self, index: int) -> int:
        return min(self._image(index).size)

    def _image(self, index: int) -> Image.Image:
        try:
            with self._one_at_a_time:
                item = self._dataset[index]
        except BROKEN as error:
            raise BadImage(str(error)) from error
        image = self._form.image_of(item, self.describe(index))
        if isinstance(image, Image.Image):
            return image
        if isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] in (1, 3):
            return self._from_tensor(image)
        shape = f" of shape {tuple(image.shape)}" if hasattr(image, "shape") else ""
        raise UserError(
            f"{self.describe(index)} must be {WANTED}, but is "
            f"{with_article(type(image).__name__)}{shape}"
        )

    def _from_tensor(self, image_CHW: Tensor) -> Image.Image:
        if image_CHW.is_floating_point():
            low, high = float(image_CHW.min()), float(image_CHW.max())
            if not (low >= -1e-3 and high <= 1 + 1e-3):
                raise UserError(
                    f"{self.name}: a float image must lie in [0, 1], but one reaches from "
                    f"{low:.3g} to {high:.3g}; leave normalising to headsearch"
                )
            image_CHW = (image_CHW.float() * 255).round().clamp(0, 255).to(torch.uint8)
        elif image_CHW.dtype != torch.uint8:
            raise UserError(f"{self.name}: an image must be {WANTED}, but is {image_CHW.dtype}")
        image_HWC = image_CHW.expand(3, -1, -1).permute(1, 2, 0)
        return Image.fromarray(image_HWC.cpu().contiguous().numpy())

    def _read_labels(self, key: str | int) -> None:
        labels = _targets(self._dataset, key)
        if labels is None:
            labels = torch.tensor([self._label(index) for index in range(len(self))])
        if int(labels.min()) < 0:
            self.notes += (f"{self.name}: some images have no label, so it counts as unlabelled",)
            return
        # Class numbers need not be consecutive: a subset, say, may lack some of them.
        present, self.labels = labels.unique(return_inverse=True)
        names = _class_names(self._dataset, key)
        named = len(names) > int(present.max())
        self.classes = tuple(str(names[i] if named else i) for i in present.tolist())

    def _label(self, index: int) -> int:
        label = self._form.label_of(self._dataset[index], self.describe(index))
        if isinstance(label, Tensor | np.ndarray) and label.ndim == 0:
            label = label.item()
        if isinstance(label, bool) or not isinstance(label, int | np.integer):
            raise UserError(
                f"{self.name}: a label must be a whole number, but the one of item {index} is a "
                f"{type(label).__name__}; items that are the image alone need none"
            )
        return int(label)


def _features(dataset: Any) -> Mapping[str, Any]:
    """What a Hugging Face dataset knows of its columns; empty for other datasets."""
    if isinstance(dataset, Subset):
        return _features(dataset.dataset)
    features = getattr(dataset, "features", None)
    return features if isinstance(features, Mapping) else {}


def _targets(dataset: Any, key: str | int) -> Tensor | None:
    """The labels in a column or in the attribute `targets`; None if there are no usable ones.

    Args:
        dataset: the dataset.
        key: where its items hold the label.
    """
    if isinstance(dataset, Subset):
        whole = _targets(dataset.dataset, key)
        return None if whole is None else whole[torch.as_tensor(dataset.indices)]
    is_column = isinstance(key, str) and key in (getattr(dataset, "column_names", None) or ())
    targets = None if is_column else getattr(dataset, "targets", None)
    # With a target transform, labels of items differ from `targets`.
    if getattr(dataset, "target_transform", None) is not None:
        return None
    try:
        labels = torch.as_tensor(list(dataset[key]) if is_column else targets)
    except (TypeError, ValueError, RuntimeError, KeyError, IndexError):
        return None
    whole_numbers = not labels.is_floating_point() and labels.dtype != torch.bool
    return labels.long() if whole_numbers and labels.shape == (len(dataset),) else None


def _class_names(dataset: Any, key: str | int) -> list[Any]:
    if isinstance(dataset, Subset):
        return _class_names(dataset.dataset, key)
    column = _features(dataset).get(str(key))
    return list(getattr(column, "names", None) or getattr(dataset, "classes", None) or ())
