"""Image and mask folders: `images/train/a.jpg` with `masks/train/a.png`, and similar layouts."""

from __future__ import annotations

import re
from pathlib import Path

from headsearch.data.dense.annotated import Annotated, Item, MaskReading
from headsearch.data.dense.mask_files import class_names
from headsearch.data.dense.places import by_stem, images_in, read_text, split_of, subfolder
from headsearch.data.image.layouts import ANNOTATION_FOLDERS, IMAGE_FOLDERS

MASK_FOLDERS = (*ANNOTATION_FOLDERS, "label", "segmentations", "targets", "mask_labels", "gt_masks")
NAMES = ("classes.txt", "mask_classes.txt", "class_dict.csv", "labelmap.txt", "label_colors.txt")
"""Files that name the classes, and perhaps their colours."""
_MASKS_OF_SPLIT = re.compile(r"(.+?)[-_]?(?:annot|annotations|labels?|masks?|gt)$", re.IGNORECASE)


def read_folders(path: Path) -> Annotated | None:
    """Reads image and mask folders; None if there are none.

    The two may lie side by side, above or below the folders of splits; `train` with `trainannot`,
    `train_labels` or `train_masks` is read too.
    """
    splits = _side_by_side(path)
    if not splits:
        for folder in sorted(each for each in path.iterdir() if each.is_dir()):
            split = split_of(folder.name)
            if split is not None:
                within = _side_by_side(folder).get("all") or _annotated_split(path, folder)
                if within:
                    splits.setdefault(split, []).extend(within)
    if not any(item.mask for items in splits.values() for item in items):
        return None
    return Annotated("folders", splits, named_classes(path))


def named_classes(path: Path) -> MaskReading:
    """How masks are read, with the names of classes if a file in the folder has them."""
    for name in NAMES:
        if (path / name).is_file():
            names, colours = class_names(read_text(path / name, 2**20).splitlines())
            return MaskReading(names or None, colours=colours or None)
    return MaskReading()


def masks_beside(path: Path, images: Path) -> dict[str, Path]:
    """The masks of a folder of images, by the path of the image without its suffix.

    Args:
        path: the data set's folder.
        images: the folder of images in it.
    """
    others = [each for each in path.iterdir() if each.is_dir() and each != images]
    for name in MASK_FOLDERS:
        folder = subfolder(path, (name,))
        if folder is not None and folder in others and (files := images_in(folder)):
            return by_stem(folder, files)
    return {}


def _side_by_side(path: Path) -> dict[str, list[Item]]:
    """The items by split of a folder with `images` and `masks`; empty without these."""
    images = subfolder(path, IMAGE_FOLDERS)
    masks = masks_beside(path, images) if images is not None else {}
    if images is None or not masks:
        return {}
    splits: dict[str, list[Item]] = {}
    for stem, image in by_stem(images, images_in(images)).items():
        first, slash, _ = stem.partition("/")
        split = (split_of(first) if slash else None) or "all"
        splits.setdefault(split, []).append(Item(image, masks.get(stem)))
    return splits


def _annotated_split(path: Path, folder: Path) -> list[Item]:
    """The items of `train` with the masks in `trainannot`, `train_labels`, …; else empty."""
    for other in sorted(each for each in path.iterdir() if each.is_dir()):
        found = _MASKS_OF_SPLIT.fullmatch(other.name)
        if found is not None and found[1].lower() == folder.name.lower():
            masks = by_stem(other, images_in(other))
            images = by_stem(folder, images_in(folder))
            return [Item(image, masks.get(stem)) for stem, image in images.items()]
    return []
