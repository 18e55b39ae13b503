"""A PyTorch dataset of the user's own as a source of images."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Subset

from headsearch.data.image.decode import BROKEN, BadImage, to_array
from headsearch.data.image.readers import Source
from headsearch.errors import UserError

WANTED = "a PIL image, a uint8 tensor (3, H, W) or a float tensor (3, H, W) in [0, 1]"


class DatasetSource(Source):
    """A map-style dataset whose items are `image` or `(image, label)`.

    Labels are whole numbers; negative ones, by which torchvision writes "unknown", make the whole
    dataset unlabelled. They are read from the dataset's `targets` where it has one for each item,
    as torchvision's have, and else from the items, which reads each image once more.

    Args:
        dataset: has a length and gives an item by its index. It is asked by one thread at a time,
            and always for the same image at an index, if its transforms are not random.

    Raises:
        UserError: it is no such dataset, or its items are something else.
    """

    def __init__(self, dataset: Any) -> None:
        self.name = type(dataset).__name__
        if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
            raise UserError(
                f"{self.name}: data must be a name or a map-style dataset, with __len__ and "
                "__getitem__"
            )
        if len(dataset) == 0:
            raise UserError(f"{self.name} is empty")
        self._dataset = dataset
        # Nothing promises that a dataset may be read by several threads: a file handle that they
        # share would give each the other's pixels.
        self._one_at_a_time = threading.Lock()
        first = dataset[0]
        self._labelled = isinstance(first, tuple | list) and len(first) > 1
        self._image(0)  # what is no image is told now
        if self._labelled:
            self._read_labels()

    def __len__(self) -> int:
        return len(self._dataset)

    def pixels(self, index: int, size: int) -> NDArray[np.uint8]:
        return to_array(self._image(index), size)

    def shorter_side(self, index: int) -> int:
        return min(self._image(index).size)

    def _image(self, index: int) -> Image.Image:
        try:
            with self._one_at_a_time:
                item = self._dataset[index]
        except BROKEN as error:
            raise BadImage(str(error)) from error
        image = item[0] if isinstance(item, tuple | list) else item
        if isinstance(image, Image.Image):
            return image
        if isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] in (1, 3):
            return self._from_tensor(image)
        shape = f" of shape {tuple(image.shape)}" if hasattr(image, "shape") else ""
        raise UserError(
            f"{self.describe(index)} must be {WANTED}, but is a {type(image).__name__}{shape}"
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

    def _read_labels(self) -> None:
        labels = _targets(self._dataset)
        if labels is None:
            labels = torch.tensor([self._label(index) for index in range(len(self))])
        if int(labels.min()) < 0:
            self.notes = (f"{self.name}: some images have no label, so it counts as unlabelled",)
            return
        found, self.labels = labels.unique(return_inverse=True)
        names = _class_names(self._dataset)
        named = len(names) > int(found.max())
        self.classes = tuple(str(names[i] if named else i) for i in found.tolist())

    def _label(self, index: int) -> int:
        label = self._dataset[index][1]
        if isinstance(label, Tensor | np.ndarray) and label.ndim == 0:
            label = label.item()
        if isinstance(label, bool) or not isinstance(label, int | np.integer):
            raise UserError(
                f"{self.name}: a label must be a whole number, but the one of item {index} is a "
                f"{type(label).__name__}; items that are the image alone need none"
            )
        return int(label)


def _targets(dataset: Any) -> Tensor | None:
    """The labels that a dataset holds beside its images, as torchvision's do; None without."""
    if isinstance(dataset, Subset):
        whole = _targets(dataset.dataset)
        return None if whole is None else whole[torch.as_tensor(dataset.indices)]
    targets = getattr(dataset, "targets", None)
    if targets is None or getattr(dataset, "target_transform", None) is not None:
        return None
    try:
        labels = torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError):
        return None
    whole_numbers = not labels.is_floating_point() and labels.dtype != torch.bool
    return labels.long() if whole_numbers and labels.shape == (len(dataset),) else None


def _class_names(dataset: Any) -> list[Any]:
    if isinstance(dataset, Subset):
        return _class_names(dataset.dataset)
    return list(getattr(dataset, "classes", ()))
