"""`ItemForm`: which part of a dataset's items is the image, and which the label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headsearch.errors import UserError
from headsearch.text import listing

IMAGE_KEYS = ("image", "img")
"""The names of the image in an item that is a dict."""
LABEL_KEYS = ("label", "fine_label")
"""The names of the label in an item that is a dict."""
LIKE_LABELS = ("label", "labels", "target", "targets", "class", "cls")
"""A key that ends in one of these may be a label too."""


@dataclass(frozen=True)
class ItemForm:
    """Where an item holds its image and its label.

    Attributes:
        image: a key or an index; None if the item is the image itself.
        label: a key or an index; None if there is no label.
        note: a decision that was made, for the user; may be empty.
    """

    image: str | int | None
    label: str | int | None
    note: str = ""

    def image_of(self, item: Any, name: str) -> Any:
        """The image of an item.

        Raises:
            UserError: it has none; the message calls the item `name`.
        """
        return _part(item, self.image, name)

    def label_of(self, item: Any, name: str) -> Any:
        """The label of an item; raises as `image_of`."""
        assert self.label is not None
        return _part(item, self.label, name)


def _part(item: Any, place: str | int | None, name: str) -> Any:
    if place is None:
        return item
    try:
        return item[place]
    except (KeyError, IndexError, TypeError):
        keys = f" (keys: {_names(item)})" if isinstance(item, Mapping) else ""
        raise UserError(f"{name} has no {place!r}{keys}, unlike the first item") from None


def item_form(first: Any, name: str, features: Mapping[str, Any]) -> ItemForm:
    """The form of a dataset's items: `image`, `(image, label)`, or a dict with these.

    Args:
        first: the first item.
        name: of the dataset, for messages.
        features: what a Hugging Face dataset knows of its columns; empty for others.

    Raises:
        UserError: it is not clear which key of a dict is the image, or which the label.
    """
    if not isinstance(first, Mapping):
        is_tuple = isinstance(first, tuple | list)
        return ItemForm(0 if is_tuple else None, 1 if is_tuple and len(first) > 1 else None)
    images = [key for key in IMAGE_KEYS if key in first]
    if len(images) != 1:
        raise _unclear(name, first, "image", IMAGE_KEYS)
    labels = [key for key in LABEL_KEYS if key in first]
    alike = [key for key in first if _like_label(key, features) and key not in LABEL_KEYS]
    if len(labels) > 1 or (not labels and alike):
        raise _unclear(name, first, "label", LABEL_KEYS)
    note = ""
    if not labels:
        note = f"{name}: its items have no label (keys: {_names(first)})"
    elif alike:
        note = f"{name}: the label is {labels[0]!r}; {_names(alike)} is not used"
    return ItemForm(images[0], labels[0] if labels else None, note)


def _like_label(key: object, features: Mapping[str, Any]) -> bool:
    """Whether a key may be a label: by its name, or because its column has class names."""
    words = str(key).lower().replace("-", "_").split("_")
    return words[-1] in LIKE_LABELS or hasattr(features.get(str(key)), "names")


def _unclear(name: str, item: Mapping[Any, Any], what: str, keys: tuple[str, ...]) -> UserError:
    wanted = " or ".join(map(repr, keys))
    return UserError(
        f"{name}: which part of an item is its {what} is not clear: the keys are {_names(item)}, "
        f"and exactly one must be {wanted}; rename or remove columns, or give (image, label) items"
    )


def _names(keys: Any) -> str:
    return listing([repr(key) for key in keys])
