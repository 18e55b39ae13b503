"""From `--data` and `--eval-data` to what a run works with: training, bank and query images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from headsearch.data.factory import BUILT_IN, Opener, Pool
from headsearch.data.image.readers import EVAL_FOLDERS, TRAIN_FOLDERS, Source, split_folder
from headsearch.data.image.skipped import LISTED_IN, MOST_BAD, LeftOut, named
from headsearch.data.image.store import MEMORY_LIMIT, Images, ImageSubset, Progress
from headsearch.data.image.timm_readers import PACKAGES
from headsearch.data.order import balanced_order
from headsearch.errors import UserError
from headsearch.seeding import seeded_generator

MIN_IMAGES = 32  # fewer make neither a batch nor a probe set
PROBE_IMAGES = 256  # from here on the discrepancy is stable (Nguyen et al. 2021, arXiv 2010.15327)


@dataclass(frozen=True)
class Data:
    """The images of a run, and who may see which.

    Attributes:
        train: what pretraining sees, without labels.
        bank: labelled images that k-NN and the linear probe learn from; None without labels.
            They may be training images too, never queries.
        queries: held-out images: the probe set of the discrepancy and, with labels, what is
            classified. Bank and queries share their classes.
        choose: (C,) int64 into queries: those whose labels may choose (pruner, ranking).
        report: (R,) int64 into queries: those whose labels are only reported on. The two are
            disjoint halves, each class in both, fixed by the seed; both empty without labels.
        notes: what was decided, a line each.
        left_out: the files that these images do without.
    """

    train: Images
    bank: Images | None
    queries: Images
    choose: Tensor
    report: Tensor
    notes: tuple[str, ...]
    left_out: LeftOut


def open_data(
    data: str | Source,
    eval_data: str | Source | None = None,
    *,
    image_size: int | None = None,
    images: int = 0,
    eval_images: int = 600,
    bank_images: int = 1000,
    seed: int = 0,
    max_image_size: int = 224,
    data_dir: Path | None = None,
    download: bool = False,
    memory_limit: int = MEMORY_LIMIT,
    most_bad: float = MOST_BAD,
    progress: Progress | None = None,
) -> Data:
    """Finds, splits and decodes the images of a run.

    Queries come from `eval_data`, or are held out of `data` and never trained on. The bank is
    drawn from `data` if that has the classes of the queries, else from `eval_data`.

    Args:
        data: "scenes" (built in), a folder or .tar (of class folders, or of unlabelled images), or
            a dataset that timm knows (see `timm_sources`). `./scenes` and the like name a folder.
            A folder with `train` and `val` inside gives both sides. Or a source, opened already.
        eval_data: likewise.
        image_size: side in pixels. None: the shorter side of the first images, rounded down to a
            multiple of 8, from 32 to `max_image_size`.
        images: training images at most; 0: all there are.
        eval_images: queries at most; 0: all there are, or a fifth of `data` if held out.
        bank_images: bank images at most; 0: all there are.
        seed: decides every choice; the queries do not depend on `images` or `bank_images`.
        data_dir: where timm's datasets lie.
        download: lets timm's datasets be fetched.
        memory_limit: bytes of pixels that one set may hold before it is decoded on demand.
        most_bad: the share of a set's images that may be bad.
        progress: told how decoding goes, set by set.

    Raises:
        UserError: nothing there, no images, too few, too many bad ones, evaluation images of a
            single class, an unknown prefix or one whose package is missing.
    """
    notes: list[str] = []
    data, eval_data = _with_splits(data, eval_data, notes)
    if eval_data is not None and _same(data, eval_data):
        notes.append("--eval-data names the same images as --data, so queries are held out of it")
        eval_data = None
    opener = Opener(seed, max_image_size, data_dir, download, memory_limit)
    if eval_data is None:
        # A stream is read only so far: five times the queries, so that a fifth is all of them.
        wanted = max(max(images, bank_images) + eval_images, 5 * eval_images)
        pool = opener.open(data, "train", wanted if images and eval_images else None)
        notes[:0] = pool.notes
        split = _hold_out(pool, eval_images, bank_images, seed, notes)
    else:
        pool = opener.open(data, "train", max(images, bank_images) if images else None)
        wanted = eval_images + (0 if data == BUILT_IN else bank_images)
        eval_pool = opener.open(eval_data, "eval", wanted if eval_images else None)
        notes[:0] = pool.notes + eval_pool.notes
        split = _keep_apart(pool, eval_pool, eval_images, bank_images, seed, notes)
    train_indices = split.train[: images or None]
    if len(train_indices) < MIN_IMAGES:
        raise UserError(
            f"{data}: {len(train_indices)} images to train on; at least {MIN_IMAGES} are needed"
        )

    if image_size is None:
        image_size = follow_size(pool.sides(), max_image_size)
        notes.append(f"image size {image_size}, after the images in {data}")
    left_out = LeftOut(most_bad)
    loader = _Loader(image_size, memory_limit, progress, notes, left_out)
    queries = loader.load(split.query_pool, split.queries)
    bank: Images | None = None
    if split.bank_pool is pool:
        train, bank = loader.load_both(pool, train_indices, split.bank)
        queries = _relabelled(queries, bank.classes)
    else:
        train = loader.load(pool, train_indices)
        if split.bank_pool is not None:
            bank = loader.load(split.bank_pool, split.bank)
    left_out.check()
    if bank is None:
        notes.append("no labels: accuracy columns stay empty, the ranking is by discrepancy")
    if len(queries) < PROBE_IMAGES:
        notes.append(
            f"only {len(queries)} queries: discrepancy intervals will be wide; "
            f"{PROBE_IMAGES} or more are advised"
        )
    choose, report = halves(queries.labels, seed)
    return Data(train, bank, queries, choose, report, tuple(dict.fromkeys(notes)), left_out)


@dataclass(frozen=True)
class _Split:
    """Which images of which pool serve for what, as indices; training images come from --data.

    The bank's pool is None without labels. If it is --data's, then bank and training images are
    both cut from the start of the same order, so that they are decoded once.
    """

    train: Tensor
    query_pool: Pool
    queries: Tensor
    bank_pool: Pool | None
    bank: Tensor


def _hold_out(
    pool: Pool, eval_images: int, bank_images: int, seed: int, notes: list[str]
) -> _Split:
    """Queries held out of --data."""
    held = held_out(len(pool), eval_images)
    notes.append(f"{held} images held out of {pool.name} as queries, never trained on")
    order = pool.order(seed)
    rest = order[held:]
    labelled = len(pool.classes) > 1
    return _Split(rest, pool, order[:held], pool if labelled else None, rest[: bank_images or None])


def _keep_apart(
    pool: Pool, eval_pool: Pool, eval_images: int, bank_images: int, seed: int, notes: list[str]
) -> _Split:
    """Queries from --eval-data; the bank from whichever side has labels that fit them."""
    name, classes = eval_pool.name, eval_pool.classes
    if len(eval_pool) < MIN_IMAGES:
        raise UserError(f"{name} holds {len(eval_pool)} images; --eval-data needs {MIN_IMAGES}")
    if len(classes) == 1:
        raise UserError(
            f"{name} holds images of one class only ({classes[0]}), nothing to tell apart; "
            "--eval-data needs two classes or more, or no class folders"
        )
    order, eval_order = pool.order(seed), eval_pool.order(seed)
    if not classes or set(classes) <= set(pool.classes):
        if pool.classes and not classes:
            notes.append(f"{name} has no labels; without --eval-data, {pool.name} would lend some")
        return _Split(
            order,
            eval_pool,
            eval_order[: eval_images or None],
            pool if classes else None,
            order[: bank_images or None],
        )
    half = len(eval_pool) // 2
    queries = eval_order[: min(eval_images or half, half)]
    bank = eval_order[len(queries) :][: bank_images or None]
    notes.append(
        f"{pool.name} has not the classes of {name}, which is split: "
        f"{len(bank)} images to learn from, {len(queries)} queries"
    )
    return _Split(order, eval_pool, queries, eval_pool, bank)


def held_out(count: int, wanted: int) -> int:
    """How many of `count` images to hold out: what is wanted, or a fifth, if that is enough.

    Raises:
        UserError: too few images to hold any out and train on the rest.
    """
    if count < 2 * MIN_IMAGES:
        raise UserError(
            f"--data holds {count} images; {2 * MIN_IMAGES} are needed to train on some and hold "
            "others out (or name --eval-data)"
        )
    fifth = max(count // 5, min(PROBE_IMAGES, count // 2))
    return min(wanted or fifth, fifth)


def halves(labels: Tensor | None, seed: int) -> tuple[Tensor, Tensor]:
    """Two disjoint halves of the queries, each class in equal parts; empty without labels."""
    if labels is None:
        return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    order = balanced_order(labels, len(labels), seeded_generator(seed, "halves"))
    middle = len(labels) // 2
    return order[:middle].sort().values, order[middle:].sort().values


def follow_size(sides: Sequence[int], max_image_size: int) -> int:
    """The image size that fits images of these shorter sides: their median, in steps of 8."""
    return max(32, min(int(median(sides)), max_image_size) // 8 * 8)


def _same(data: str | Source, eval_data: str | Source) -> bool:
    """Whether both name the same images; a prefix without a split names another on each side."""
    if isinstance(data, Source) or isinstance(eval_data, Source):
        return data is eval_data
    if data == BUILT_IN or eval_data == BUILT_IN:
        return False
    if _has_prefix(data) or _has_prefix(eval_data):
        return data == eval_data and "#" in data
    return Path(data).resolve() == Path(eval_data).resolve()


def _has_prefix(spec: str) -> bool:
    return spec.partition("/")[0].lower() in PACKAGES


def _with_splits(
    data: str | Source, eval_data: str | Source | None, notes: list[str]
) -> tuple[str | Source, str | Source | None]:
    """Resolves folders that hold a folder for each split, and the built-in's endless supply."""
    if data == BUILT_IN:
        return data, eval_data or BUILT_IN
    if (
        isinstance(data, str)
        and not _has_prefix(data)
        and (found := split_folder(Path(data), TRAIN_FOLDERS))
    ):
        held = split_folder(Path(data), EVAL_FOLDERS)
        if eval_data is None and held is not None:
            eval_data = str(held)
            notes.append(f"{data}: trains on {found.name}, evaluates on {held.name}")
        data = str(found)
    if isinstance(eval_data, str) and eval_data != BUILT_IN and not _has_prefix(eval_data):
        eval_data = str(split_folder(Path(eval_data), EVAL_FOLDERS) or eval_data)
    return data, eval_data


@dataclass(frozen=True)
class _Loader:
    """Decodes parts of pools at one size and notes what had to be left out."""

    image_size: int
    memory_limit: int
    progress: Progress | None
    notes: list[str]
    left_out: LeftOut

    def load(self, pool: Pool, indices: Tensor) -> Images:
        images, bad = pool.load(
            indices, self.image_size, self.memory_limit, self.progress, self.left_out
        )
        if bad:
            self.notes.append(
                f"{pool.name}: {len(bad)} files that cannot be read left out ({named(bad)}); "
                f"{LISTED_IN} of the run lists them"
            )
        if len(images.classes) == 1:  # one class is nothing to classify
            self.notes.append(
                f"{pool.name}: all images are of one class, so it counts as unlabelled"
            )
            images.labels, images.classes = None, ()
        return images

    def load_both(self, pool: Pool, train: Tensor, bank: Tensor) -> tuple[Images, Images]:
        """Training and bank images of one order, decoded once if that fits into memory."""
        both = max(train, bank, key=len)
        if len(both) * 3 * self.image_size**2 > self.memory_limit:
            # Training images will be decoded on demand; the bank, read at every rung, need not.
            return self.load(pool, train), self.load(pool, bank)
        images = self.load(pool, both)
        # Bad files left out may make the set smaller than was asked for.
        first_train, first_bank = (torch.arange(min(len(x), len(images))) for x in (train, bank))
        return ImageSubset(images, first_train), ImageSubset(images, first_bank)


def _relabelled(images: Images, classes: tuple[str, ...]) -> Images:
    """Gives images the label numbers of a larger or differently ordered list of classes."""
    if images.classes != classes:
        assert images.labels is not None
        numbers = torch.tensor([classes.index(name) for name in images.classes])
        images.labels, images.classes = numbers[images.labels], classes
    return images
