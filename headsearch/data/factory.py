"""What `--data` can name, as pools of images that are counted and split before any is decoded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from headsearch.data.image.decode import BadImage
from headsearch.data.image.readers import Source, open_path
from headsearch.data.image.skipped import LeftOut
from headsearch.data.image.store import Images, ImagesInMemory, Progress, load
from headsearch.data.image.synthetic.scenes import CLASSES, generate_scenes
from headsearch.data.image.timm_readers import PACKAGES, looks_like_prefix, open_timm, parse
from headsearch.data.order import balanced_order
from headsearch.errors import UserError
from headsearch.seeding import seeded_generator

BUILT_IN = "scenes"
"""The built-in dataset's name; `./scenes` is a folder."""
BUILT_IN_FULL = 50_000
"""Images that `--images 0` (all) means for the built-in dataset, which has no end."""

Role = Literal["train", "eval"]

_TRAIN_SCENES = 1_000_000  # where training scenes start; evaluation scenes start at 0
_SCENE_SIZE = 32
_SCENE_CHUNK = 1920


class Pool(ABC):
    """Images to split: not decoded yet, but counted and perhaps labelled."""

    name: str
    classes: tuple[str, ...]
    notes: tuple[str, ...]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def order(self, seed: int) -> Tensor:
        """A permutation of which any part is a fair sample of the whole."""

    @abstractmethod
    def sides(self) -> list[int]:
        """The shorter sides of the first images, in pixels."""

    @abstractmethod
    def load(
        self,
        indices: Tensor,
        image_size: int,
        memory_limit: int,
        progress: Progress | None,
        left_out: LeftOut,
    ) -> tuple[Images, list[str]]:
        """The images, and the names of those that are bad and left out."""


class SourcePool(Pool):
    def __init__(self, source: Source) -> None:
        self._source = source
        self.name = source.name
        self.classes = source.classes
        self.notes = source.notes

    def __len__(self) -> int:
        return len(self._source)

    def order(self, seed: int) -> Tensor:
        return balanced_order(
            self._source.labels, len(self._source), seeded_generator(seed, "split")
        )

    def sides(self) -> list[int]:
        sides = []
        for index in range(len(self._source)):
            try:
                sides.append(self._source.shorter_side(index))
            except (BadImage, OSError):
                continue
            if len(sides) == 16:
                break
        if not sides:
            raise UserError(
                f"{self.name}: none of its {len(self)} images can be read "
                f"(for example {self._source.describe(0)})"
            )
        return sides

    def load(
        self,
        indices: Tensor,
        image_size: int,
        memory_limit: int,
        progress: Progress | None,
        left_out: LeftOut,
    ) -> tuple[Images, list[str]]:
        for file in self._source.others:
            left_out.add(self.name, file, "not called like an image")
        return load(self._source, indices, image_size, memory_limit, progress, left_out)


class ScenePool(Pool):
    """Scenes `start` to `start + count − 1` of the seed; every stretch holds all classes evenly."""

    name = BUILT_IN
    classes = CLASSES
    notes = ()

    def __init__(self, count: int, start: int, seed: int) -> None:
        self._count, self._start, self._seed = count, start, seed

    def __len__(self) -> int:
        return self._count

    def order(self, seed: int) -> Tensor:
        return torch.arange(self._count)

    def sides(self) -> list[int]:
        return [_SCENE_SIZE]

    def load(
        self,
        indices: Tensor,
        image_size: int,
        memory_limit: int,
        progress: Progress | None,
        left_out: LeftOut,
    ) -> tuple[Images, list[str]]:
        count, start = len(indices), self._start + int(indices[0])
        need = count * 3 * image_size**2
        if need > memory_limit:
            raise UserError(
                f"{count} scenes of {image_size} pixels take {need / 2**30:.1f} GiB, over "
                f"{memory_limit / 2**30:.1f}: lower --images or --image-size"
            )
        pixels = torch.empty((count, 3, image_size, image_size), dtype=torch.uint8)
        labels = torch.empty(count, dtype=torch.int64)
        for done in range(0, count, _SCENE_CHUNK):
            part = min(_SCENE_CHUNK, count - done)
            scenes = generate_scenes(part, image_size, self._seed, start + done)
            pixels[done : done + part] = scenes.images
            labels[done : done + part] = scenes.labels
            if progress is not None:
                progress(done + part, count)
        return ImagesInMemory(self.name, pixels, labels, self.classes), []


@dataclass(frozen=True)
class Opener:
    """Finds the images that a spec names.

    Attributes:
        seed: of scenes, and of streams that can be shuffled.
        max_image_size: images of a stream are kept no larger than this.
        data_dir: where timm's datasets lie.
        download: lets timm's datasets be fetched.
        memory_limit: bytes of pixels that a stream may fill.
    """

    seed: int
    max_image_size: int
    data_dir: Path | None
    download: bool
    memory_limit: int

    def open(self, spec: str | Source, role: Role, count: int | None) -> Pool:
        """Opens what `--data` ("train") or `--eval-data` ("eval") names; a source is open already.

        Args:
            count: images to make or to read where there is no end or no index; None: all.

        Raises:
            UserError: nothing there, or nothing that can be read.
        """
        if isinstance(spec, Source):
            return SourcePool(spec)
        if spec == BUILT_IN:
            start = _TRAIN_SCENES if role == "train" else 0
            return ScenePool(count or BUILT_IN_FULL, start, self.seed)
        timm_spec = parse(spec, role, self.data_dir, self.download)
        if timm_spec is not None:
            source = open_timm(timm_spec, count, self.max_image_size, self.memory_limit, self.seed)
            return SourcePool(source)
        path = Path(spec).expanduser()
        if not path.exists() and (prefix := looks_like_prefix(spec)) is not None:
            raise UserError(
                f"no file or folder {spec!r}; did you mean the prefix '{prefix}/'? "
                f"(prefixes: {', '.join(p + '/' for p in PACKAGES)})"
            )
        return SourcePool(open_path(path, spec))
