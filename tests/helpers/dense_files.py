"""Small dense sets on disk, for the tests of `--dense-data`: images, masks, boxes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT = 24, 16
IMAGES = 60


def pixels(number: int, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """An image, another for each number."""
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def indices(number: int, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """A mask of classes 0, 1 and 2 in vertical stripes, and a row of void below."""
    mask = (np.arange(width) * 3 // width)[None].repeat(height, 0).astype(np.uint8)
    mask = np.roll(mask, number, axis=1)
    mask[-1] = 255
    return mask


def save(path: Path, array: NDArray[Any], mode: str | None = None) -> Path:
    """Writes an image or a mask; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if mode == "P":
        image.putpalette([v for i in range(256) for v in (255 - i, 7 * i % 256, i)])
    image.save(path)
    return path


TRAINED = 15
"""Images of the training set of `folders`; the others are its test set."""


def folders(
    root: Path,
    *,
    mode: str | None = None,
    mask: Callable[[int], NDArray[Any]] = indices,
    count: int = IMAGES,
    split: bool = True,
) -> Path:
    """`images/SPLIT/N.png` with `masks/SPLIT/N.png`; without folders of splits if they are off."""
    for number in range(count):
        part = ("train" if number < TRAINED else "test") if split else "."
        save(root / "images" / part / f"{number:03}.png", pixels(number))
        save(root / "masks" / part / f"{number:03}.png", mask(number), mode)
    return root


def coco_entries(count: int = 130) -> dict[str, Any]:
    """COCO annotations: a polygon, both forms of run lengths and a crowd; ids have gaps."""
    annotations: list[dict[str, Any]] = []
    for number in range(count):
        column = np.zeros((HEIGHT, WIDTH), dtype=bool)
        column[2:10, 4:12] = True
        flat = column.T.flatten()  # column by column
        edges = np.flatnonzero(np.diff(np.concatenate([[0], flat.astype(int), [0]])))
        counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
        shapes: list[tuple[list[float], Any, int]] = [
            ([4, 2, 8, 8], [[4, 2, 12, 2, 12, 10, 4, 10]], 0),
            ([4, 2, 8, 8], {"size": [HEIGHT, WIDTH], "counts": counts}, 0),
            ([12, 4, 10, 10], {"size": [HEIGHT, WIDTH], "counts": counts}, 1),
        ]
        for box, segmentation, crowd in shapes:
            annotations.append(
                {"id": len(annotations) + 1, "image_id": 10 * number + 7, "iscrowd": crowd,
                 "category_id": 3 + 5 * (len(annotations) % 2), "bbox": box,
                 "segmentation": segmentation, "area": 64}
            )  # fmt: skip
    return {
        "images": [
            {"id": 10 * n + 7, "file_name": f"{n:03}.png", "width": WIDTH, "height": HEIGHT}
            for n in range(count)
        ],
        "annotations": annotations,
        "categories": [
            {"id": 3, "name": "cat", "supercategory": "animal"},
            {"id": 8, "name": "dog", "supercategory": "animal"},
        ],
    }


def coco(root: Path, entries: Mapping[str, Any] | str | None = None, count: int = 130) -> Path:
    """`images/N.png` with `annotations/instances.json`, without splits."""
    for number in range(count):
        save(root / "images" / f"{number:03}.png", pixels(number))
    text = entries if isinstance(entries, str) else json.dumps(entries or coco_entries(count))
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / "instances.json").write_text(text)
    return root


def voc_xml(boxes: list[tuple[str, tuple[object, ...], int]], size: tuple[int, int]) -> str:
    """The annotations of one image: name, xmin ymin xmax ymax, difficult."""
    objects = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
        f"<xmin>{b[0]}</xmin><ymin>{b[1]}</ymin><xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox>"
        "</object>"
        for name, b, difficult in boxes
    )
    width, height = size
    shape = f"<size><width>{width}</width><height>{height}</height></size>"
    return f"<annotation>{shape}{objects}</annotation>"


def voc(root: Path, boxes: list[tuple[str, tuple[object, ...], int]], count: int = IMAGES) -> Path:
    """`JPEGImages/N.png`, `Annotations/N.xml` and lists of a training and a test set."""
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        save(root / "JPEGImages" / f"{number:03}.png", pixels(number))
        (root / "Annotations" / f"{number:03}.xml").write_text(voc_xml(boxes, (WIDTH, HEIGHT)))
    for name, numbers in (("trainval", range(15)), ("test", range(15, count))):
        lines = "".join(f"{number:03}\n" for number in numbers)
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text(lines)
    return root
