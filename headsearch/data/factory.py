"""Opens what `--data` names as a pool of images, which can be counted and split before decoding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from headsearch.config.input_shape import InputShape
from headsearch.data.audio.log_mel import LogMel
from headsearch.data.audio.waveform import Waveform
from headsearch.data.image.decode import BadImage
from headsearch.data.image.labelling import Labelling
from headsearch.data.image.layouts import EVAL_FOLDERS, TRAIN_FOLDERS, split_folder
from headsearch.data.image.loading import Loading, load, load_photos
from headsearch.data.image.photos import PhotoReader, holds_photos
from headsearch.data.image.readers import open_named, open_path
from headsearch.data.image.source import Items, Source
from headsearch.data.image.store import Images, ImagesInMemory
from headsearch.data.image.survey import survey
from headsearch.data.image.synthetic.scenes import CLASSES, generate_scenes
from headsearch.data.image.table_source import TableSource
from headsearch.data.image.tables import find_table
from headsearch.data.image.tar_source import TarSource
from headsearch.data.image.timm_readers import (
    PREFIXES,
    looks_like_prefix,
    open_timm,
    parse,
)
from headsearch.data.image.wds_shards import shards_of
from headsearch.data.image.wide_values import Scale
from headsearch.data.order import balanced_order
from headsearch.data.settings import DataSettings
from headsearch.data.text.tokens import Encoder
from headsearch.errors import UserError
from headsearch.seeding import seeded_generator
from headsearch.text import counted, with_article

BUILT_IN = "scenes"
"""The name of the built-in dataset. `./scenes` means a folder of this name."""
BUILT_IN_FULL = 50_000
"""The number of images for `--images 0` (all) of the built-in dataset, which is infinite."""

Role = Literal["train", "eval"]

_SPLIT_FOLDERS = {"train": TRAIN_FOLDERS, "eval": EVAL_FOLDERS}
_TRAIN_SCENES = 1_000_000  # index of the first training scene; evaluation scenes start at 0
SCENE_SIZE = 32  # side in pixels that is chosen where `--image-size` is not given
_SCENE_CHUNK = 1920  # scenes between two calls of `progress`


@dataclass(frozen=True)
class Form:
    """What becomes of the images of a set, or of its clips or texts.

    Attributes:
        shape: of the views.
        store_size: the shorter side in pixels at which photos are kept. None where the images are
            no photos: each is then reduced to a square of the views' size, to cut crops from.
        cropped: whether random crops are cut from the photos of this set.
        clips: how clips become maps, or are kept as waveforms; None for others.
        encoder: how texts become token ids; None for others.
    """

    shape: InputShape
    store_size: int | None = None
    cropped: bool = False
    clips: LogMel | Waveform | None = None
    encoder: Encoder | None = None

    @property
    def image_size(self) -> int:
        """The side of square views in pixels."""
        return self.shape.width


class Pool(ABC):
    """Images or clips that are not decoded yet, but whose number, and labels if any, are known.

    Attributes:
        name: what the user called the images.
        noun: what one of them is called.
        classes: class names; empty without labels.
        notes: decisions made while opening them, one line each.
        labels: (N,) int64 indices into `classes`; None without labels, and where all classes are
            known to have enough images.
    """

    name: str
    noun: str = "image"
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    labels: Tensor | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def order(self, seed: int) -> Tensor:
        """A permutation (N,) int64 whose every prefix is a sample of all classes."""

    def fit_values(self, scale: Scale) -> tuple[Scale, tuple[str, ...]]:
        """Fits the scale of images of more than 8 bits a value; see `survey`.

        Args:
            scale: that of the images that these are used with.

        Returns:
            The scale, and notes on what is done to the images.
        """
        return scale, ()

    def sides(self) -> list[int]:
        """The shorter sides of the first images in pixels; none of what is no image."""
        return []

    def names_of(self, classes: Tensor) -> tuple[str, ...]:
        """The names of some classes, by their int64 indices."""
        return tuple(self.classes[index] for index in classes.tolist())

    def holds_photos(self, image_size: int) -> bool:
        """Whether it holds images that are not square or larger than views of this side."""
        return False

    @abstractmethod
    def load(self, indices: Tensor, form: Form, how: Loading) -> tuple[Images, list[str]]:
        """Loads images; returns them without the bad ones, and the names of the bad ones.

        Args:
            indices: (n,) int64 indices of the images.
            form: what becomes of each image.
            how: see `Loading`.
        """


class ItemsPool(Pool):
    """The samples of a set that can be read in any order."""

    def __init__(self, items: Items) -> None:
        self._items = items
        self.name, self.notes = items.name, items.notes
        self.labels, self.classes = items.labels, items.classes

    def __len__(self) -> int:
        return len(self._items)

    def order(self, seed: int) -> Tensor:
        return balanced_order(self.labels, len(self), seeded_generator(seed, "split"))

    def list_others(self, how: Loading) -> None:
        """Lists the files that are not called like a sample among those that are left out."""
        reason = f"not called like {with_article(self.noun)}"
        for file in self._items.others:
            how.left_out.add(self.name, file, reason)
        for ending, count in self._items.beside.items():
            files = f"{counted(count, 'file')} *{ending} beside the {self.noun}s"
            how.left_out.add(self.name, files, reason)


class SourcePool(ItemsPool):
    """The images of a `Source`."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._source = source

    def fit_values(self, scale: Scale) -> tuple[Scale, tuple[str, ...]]:
        notes = survey(self._source, scale)
        return self._source.scale, notes

    def sides(self) -> list[int]:
        sides = []
        for index in range(len(self._source)):
            try:
                sides.append(self._source.shorter_side(index))
            except (BadImage, OSError):
                continue
            if len(sides) == 16:  # enough for a typical size; each one opens a file
                break
        if not sides:
            raise UserError(
                f"{self.name}: none of its {len(self)} images can be read "
                f"(for example {self._source.describe(0)})"
            )
        return sides

    def holds_photos(self, image_size: int) -> bool:
        return holds_photos(self._source, image_size)

    def load(self, indices: Tensor, form: Form, how: Loading) -> tuple[Images, list[str]]:
        self.list_others(how)
        if form.store_size is None:
            return load(self._source, indices, form.image_size, how)
        reader = PhotoReader(self._source, form.image_size, form.store_size)
        if form.cropped:
            return load_photos(reader, indices, how)
        return load(self._source, indices, form.image_size, how, reader.evaluated)


class ScenePool(Pool):
    """The built-in scenes `start` to `start + count − 1` of a seed.

    Any ten consecutive scenes from a multiple of ten have all ten classes, so the order is kept.
    """

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
        return [SCENE_SIZE]

    def load(self, indices: Tensor, form: Form, how: Loading) -> tuple[Images, list[str]]:
        count, start, image_size = len(indices), self._start + int(indices[0]), form.image_size
        check_scenes(count, image_size, how.memory_limit)
        pixels = torch.empty((count, 3, image_size, image_size), dtype=torch.uint8)
        labels = torch.empty(count, dtype=torch.int64)
        for done in range(0, count, _SCENE_CHUNK):
            part = min(_SCENE_CHUNK, count - done)
            scenes = generate_scenes(part, image_size, self._seed, start + done)
            pixels[done : done + part] = scenes.images
            labels[done : done + part] = scenes.labels
            if how.progress is not None:
                how.progress(done + part, count)
        return ImagesInMemory(self.name, pixels, labels, self.classes), []


def check_scenes(count: int, image_size: int, memory_limit: int) -> None:
    """Raises UserError if this many scenes of this side in pixels need more memory than is set."""
    each = 3 * image_size**2
    if count * each > memory_limit:
        raise UserError(
            f"{count} scenes of {image_size} pixels take {count * each / 2**30:.1f} GiB, over the "
            f"limit of {memory_limit / 2**30:.1f} GiB, which is enough for {memory_limit // each}: "
            "lower --images, --eval-images, --bank-images or --image-size"
        )


@dataclass(frozen=True)
class Opener:
    """Opens the images that `--data` or `--eval-data` names.

    Attributes:
        settings: `seed` is that of scenes and of streams that can be shuffled; `data_dir` and
            `download` apply to timm's datasets; `max_image_size` and `memory_limit` bound a stream.
        alone: whether `--data` is all that is opened, so that a file of `--labels` must be of it.
    """

    settings: DataSettings
    alone: bool = False

    def open(
        self, spec: str | Source, role: Role, count: int | None, without: Path | None = None
    ) -> Pool:
        """Opens the images that a spec names.

        Args:
            spec: the value of `--data` or `--eval-data`, or a source that is open already.
            role: "train" for `--data`, "eval" for `--eval-data`.
            count: the number of images to generate (scenes) or to read of a stream; None for all.
            without: a folder inside the one that is named, which is left out.

        Raises:
            UserError: there is nothing of this name, or nothing that can be read.
        """
        if isinstance(spec, Source):
            return self._with_own_labels(spec)
        settings = self.settings
        if spec == BUILT_IN:
            if settings.labels == "none":
                raise UserError(
                    f"--labels none: the images of {BUILT_IN} have labels; leave it out"
                )
            check_scenes(count or 0, settings.image_size or SCENE_SIZE, settings.memory_limit)
            start = _TRAIN_SCENES if role == "train" else 0
            return ScenePool(count or BUILT_IN_FULL, start, settings.seed)
        timm_spec = parse(spec, role, settings.data_dir, settings.download)
        if timm_spec is not None and timm_spec.reads_a_folder:
            # With the reader of all folders: torchvision's takes hidden folders for classes.
            names = timm_spec.splits if "#" in spec else _SPLIT_FOLDERS[role]
            root = settings.data_dir or Path("data")
            folder = split_folder(root, names) or root
            return SourcePool(open_path(folder, spec, without, self.labelling()))
        if timm_spec is not None and timm_spec.prefix == "wds":
            return SourcePool(TarSource(shards_of(timm_spec), spec, self.labelling()))
        if timm_spec is not None:
            source = open_timm(
                timm_spec, count, settings.max_image_size, settings.memory_limit, settings.seed
            )
            return self._with_own_labels(source)
        path = Path(spec).expanduser()
        if not path.exists() and (prefix := looks_like_prefix(spec)) is not None:
            raise UserError(
                f"no file or folder {spec!r}; did you mean the prefix '{prefix}/'? "
                f"(prefixes: {', '.join(p + '/' for p in PREFIXES)})"
            )
        if (table := find_table(spec, role)) is not None:
            return SourcePool(TableSource(table, settings.labels, settings.data_dir))
        return SourcePool(open_named(spec, role, self.labelling(), without))

    def bank_and_queries(self, eval_data: str | Source) -> tuple[str | None, str | Source]:
        """What `--eval-data` names for the bank, if that has a set of its own, and for queries."""
        return None, eval_data

    def _with_own_labels(self, source: Source) -> Pool:
        """A data set that brings its labels with it, which `--labels none` leaves out.

        Raises:
            UserError: `--labels` names a file or folders, and there is no other set to use it for.
        """
        labels = self.settings.labels
        if labels == "none":
            source.labels, source.classes = None, ()
        elif labels != "auto" and self.alone:
            raise UserError(
                f"--labels {labels} is for image files, and {source.name} brings its labels with "
                "it: leave it out, or use --labels none"
            )
        return SourcePool(source)

    def labelling(self) -> Labelling:
        """How the labels of files are found, by `--labels`."""
        return Labelling.of(self.settings.labels, required=self.alone)
