"""Image files for the tests, in folders and archives; each image carries a number."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from headsearch.data import Data, DataSettings, Images, open_data
from headsearch.data.image.store import Progress

SIZE = 32


def png(number: int, size: int = SIZE) -> bytes:
    """An image that carries its number in its colour."""
    return encoded(Image.new("RGB", (size, size), (number % 256, number // 256, 77)))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def numbers(images: Images) -> list[int]:
    """The numbers that `png` wrote into a set's images."""
    pixels = images.batch(torch.arange(len(images)))[:, :, 0, 0].long()
    return (pixels[:, 0] + 256 * pixels[:, 1]).tolist()


def photo(number: int, width: int = 120, height: int = 80) -> Image.Image:
    """A smooth photo, of which no two parts are alike."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    waves = [np.sin(7 * x + number), np.cos(5 * y * x + number), np.sin(9 * (x - y) + number)]
    return Image.fromarray((127 + 100 * np.stack(waves, axis=2)).astype(np.uint8))


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def class_files(classes: dict[str, int], first: int = 0) -> dict[str, bytes]:
    """Files in class folders, numbered on from `first`."""
    names = [f"{name}/{i:03d}.png" for name, count in classes.items() for i in range(count)]
    return {name: png(first + i) for i, name in enumerate(names)}


def tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


SMALL = DataSettings(eval_images=40, bank_images=50, probe_classes=0, seed=0)


def open_small(
    data: Path | str,
    eval_data: Path | str | None = None,
    *,
    progress: Progress | None = None,
    **settings: Any,
) -> Data:
    """Opens a few images; `settings` are fields of `DataSettings` other than those of `SMALL`."""
    return open_data(
        str(data),
        None if eval_data is None else str(eval_data),
        replace(SMALL, **settings),
        progress,
    )
