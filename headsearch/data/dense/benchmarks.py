"""The layouts of ADE20K, Cityscapes and Oxford-IIIT Pet, whose masks have values of their own."""

from __future__ import annotations

from pathlib import Path

from headsearch.data.dense.annotated import Annotated, Item, MaskReading
from headsearch.data.dense.places import by_stem, chosen, images_in, names_in_lists, read_text

CITYSCAPES_CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
    "motorcycle", "bicycle",
)  # fmt: skip
"""The 19 classes that are scored, in their order (train ids)."""
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Their values in `*_labelIds.png`; the other 15 of the 34 are void. Source: cityscapesScripts."""
ADE20K_CLASSES = 150
PET_TABLE = {1: 1, 2: 0}
"""Trimaps: 1 the animal, 2 the background, 3 their border, which is void."""


def read_ade20k(path: Path) -> Annotated | None:
    """Reads the scene parsing benchmark: 0 is `other` and void, class k has the value k + 1."""
    images, masks = path / "images", path / "annotations"
    parts = {"train": "training", "val": "validation"}
    if not any((masks / part).is_dir() and (images / part).is_dir() for part in parts.values()):
        return None
    splits = {}
    for split, part in parts.items():
        of_mask = by_stem(masks / part, images_in(masks / part))
        of_image = by_stem(images / part, images_in(images / part))
        splits[split] = [Item(image, of_mask.get(stem)) for stem, image in of_image.items()]
    table = {value + 1: value for value in range(ADE20K_CLASSES)}
    names = _ade20k_names(path / "objectInfo150.txt")
    return Annotated("ade20k", splits, MaskReading(names, frozenset({0, 255}), table))


def _ade20k_names(file: Path) -> tuple[str, ...]:
    """The names in the file that comes with the set; numbers without it."""
    if file.is_file():
        lines = [line.split("\t") for line in read_text(file, 2**20).splitlines()[1:]]
        names = tuple(line[-1].split(",")[0].strip() for line in lines if len(line) > 1)
        if len(names) == ADE20K_CLASSES:
            return names
    return tuple(map(str, range(1, ADE20K_CLASSES + 1)))


def read_cityscapes(path: Path) -> Annotated | None:
    """Reads `leftImg8bit/SPLIT/CITY/*.png` with `gtFine/…/*_labelIds.png` or `*_labelTrainIds.png`.

    The test set has masks without classes and is left out.
    """
    images, masks = path / "leftImg8bit", path / "gtFine"
    if not images.is_dir() or not masks.is_dir():
        return None
    splits, trained = {}, False
    for split in ("train", "val"):
        items = []
        for image in images_in(images / split):
            stem = masks / image.relative_to(images).parent / image.stem.replace("_leftImg8bit", "")
            ids, train_ids = (
                stem.with_name(f"{stem.name}_gtFine_{kind}.png")
                for kind in ("labelIds", "labelTrainIds")
            )
            trained = trained or (not ids.is_file() and train_ids.is_file())
            items.append(Item(image, next((m for m in (ids, train_ids) if m.is_file()), None)))
        splits[split] = items
    table = None if trained else {value: i for i, value in enumerate(CITYSCAPES_IDS)}
    return Annotated("cityscapes", splits, MaskReading(CITYSCAPES_CLASSES, table=table))


def read_pets(path: Path) -> Annotated | None:
    """Reads `images/*.jpg` with `annotations/trimaps/*.png` and the lists of Oxford-IIIT Pet."""
    images, masks = path / "images", path / "annotations" / "trimaps"
    if not images.is_dir() or not masks.is_dir():
        return None
    of_image, of_mask = (by_stem(folder, images_in(folder)) for folder in (images, masks))
    lists = names_in_lists(path / "annotations") or {"all": sorted(of_image)}
    splits = {
        split: [Item(image, of_mask.get(image.stem)) for image in chosen(of_image, names)]
        for split, names in lists.items()
    }
    reading = MaskReading(("background", "animal"), frozenset(), PET_TABLE)
    return Annotated("pets", splits, reading)
