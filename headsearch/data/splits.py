"""`open_data`: opens `--data` and `--eval-data` and splits them into training, bank and queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from headsearch.data.copies import warnings_about
from headsearch.data.factory import BUILT_IN, Opener, Pool
from headsearch.data.image.readers import Source
from headsearch.data.image.skipped import LISTED_IN, LeftOut, named
from headsearch.data.image.store import Images, ImageSubset, Progress
from headsearch.data.image.wide_values import NOMINAL
from headsearch.data.order import balanced_order
from headsearch.data.settings import DEFAULTS, DataSettings
from headsearch.data.split_folders import inside, resolve_splits, same
from headsearch.errors import UserError
from headsearch.seeding import seeded_generator
from headsearch.text import counted

MIN_IMAGES = 32  # fewer are too few for a batch, and for the discrepancy
PROBE_IMAGES = 256  # from here on the discrepancy is stable (Nguyen et al. 2021, arXiv 2010.15327)


@dataclass(frozen=True)
class Data:
    """The images of a run, by purpose.

    Attributes:
        train: the images that the base and the heads are trained on, without labels.
        bank: labelled images that k-NN and the linear probe learn from; None without labels.
            Bank images may be training images too, but never queries.
        queries: held-out images. The discrepancy is measured on them and, with labels, they are
            classified. Bank and queries have the same classes.
        choose: (C,) int64 indices of the queries whose labels may be used to choose heads (pruner,
            ranking).
        report: (R,) int64 indices of the queries whose labels are only reported on. `choose` and
            `report` are disjoint halves, fixed by the seed, each with all classes; both are empty
            without labels.
        notes: decisions that the user should know of, one line each.
        left_out: the files that could not be used.
        warnings: what makes the data doubtful, one line each; also among `notes`.
    """

    train: Images
    bank: Images | None
    queries: Images
    choose: Tensor
    report: Tensor
    notes: tuple[str, ...]
    left_out: LeftOut
    warnings: tuple[str, ...] = ()


def open_data(
    data: str | Source,
    eval_data: str | Source | None = None,
    settings: DataSettings = DEFAULTS,
    progress: Progress | None = None,
) -> Data:
    """Opens, splits and decodes the images of a run.

    Queries come from `eval_data`; without it they are held out of `data` and never trained on. The
    bank is drawn from `data` if that has the classes of the queries, else from `eval_data`.

    Args:
        data: "scenes" (built in); a folder or .tar, of class folders or of unlabelled images; or a
            dataset that timm knows (see `timm_readers`). `./scenes` is a folder of that name. A
            folder with the subfolders `train` and `val` gives both `data` and `eval_data`. Also a
            source that is open already.
        eval_data: likewise.
        settings: how many images to use, their size, and how to read them.
        progress: called while each set of images is decoded.

    Raises:
        UserError: there is nothing at this path, or there are no images, too few, or too many bad
            ones; the evaluation images have a single class; or a prefix is unknown or its package
            is missing.
    """
    notes: list[str] = []
    data, eval_data = resolve_splits(data, eval_data, notes)
    if eval_data is not None and same(data, eval_data):
        notes.append("--eval-data names the same images as --data, so queries are held out of it")
        eval_data = None
    judged = None
    loaded = _load(data, eval_data, settings, progress, notes)
    warnings = list(warnings_about(loaded.queries, loaded.train, loaded.bank))
    bank, queries = loaded.bank, loaded.queries
    if bank is not None:
        judged = _classifiable(bank, queries, warnings)
        if judged is None:
            bank, queries.labels, queries.classes = None, None, ()
    if bank is None:
        notes.append("no labels: accuracy columns stay empty, the ranking is by discrepancy")
    if len(queries) < PROBE_IMAGES:
        notes.append(
            f"only {counted(len(queries), 'query', 'queries')}: discrepancy intervals will be "
            f"wide; {PROBE_IMAGES} or more are advised"
        )
    choose, report = halves(queries.labels, settings.seed, judged)
    all_notes = tuple(dict.fromkeys([*notes, *(f"warning: {each}" for each in warnings)]))
    return Data(
        loaded.train, bank, queries, choose, report, all_notes, loaded.left_out, tuple(warnings)
    )


@dataclass(frozen=True)
class _Loaded:
    """The decoded images of a run."""

    train: Images
    bank: Images | None
    queries: Images
    left_out: LeftOut


def _load(
    data: str | Source,
    eval_data: str | Source | None,
    settings: DataSettings,
    progress: Progress | None,
    notes: list[str],
) -> _Loaded:
    """Opens, splits and decodes the images; queries are held out of `data` without `eval_data`."""
    opener = Opener(settings, alone=eval_data is None)
    if eval_data is None:
        split = _hold_out(opener, data, settings, notes)
    else:
        split = _keep_apart(opener, data, eval_data, settings, notes)
    if len(split.train) < MIN_IMAGES:
        raise UserError(
            f"{data}: {counted(len(split.train), 'image')} to train on; at least {MIN_IMAGES} are "
            "needed"
        )
    image_size = settings.image_size
    if image_size is None:
        image_size = follow_size(split.train_pool.sides(), settings.max_image_size)
        notes.append(f"image size {image_size}, after the images in {data}")
    scale, changes = split.train_pool.fit_values(NOMINAL)
    if split.query_pool is not split.train_pool:
        changes += split.query_pool.fit_values(scale)[1]
    notes += changes
    left_out = LeftOut(settings.max_bad_images)
    loader = _Loader(image_size, settings.memory_limit, progress, notes, left_out)
    train, bank, queries = loader.load_split(split)
    left_out.check()
    return _Loaded(train, bank, queries, left_out)


def _classifiable(bank: Images, queries: Images, warnings: list[str]) -> Tensor | None:
    """Indices of the queries whose class is in the bank; None if classification says nothing.

    No proxy can classify the other queries, whatever the features, so they do not count.
    """
    assert bank.labels is not None
    assert queries.labels is not None
    known = bank.labels.unique()
    judged = torch.isin(queries.labels, known).nonzero().flatten()
    missing = len(queries) - len(judged)
    if missing:
        what = "is of a class" if missing == 1 else "are of classes"
        warnings.append(
            f"{missing} of {counted(len(queries), 'query', 'queries')} {what} that none of the "
            f"{counted(len(bank), 'bank image')} is of, and left out of accuracies; use a larger "
            "--bank-images, or images of more of the classes"
        )
    if len(judged) >= 2 and len(known) >= 2:
        return judged
    warnings.append("too few queries can be classified, so the data count as unlabelled")
    return None


@dataclass(frozen=True)
class _Split:
    """The pools and indices of training images, queries and bank.

    The bank's pool is None without labels. If it is the pool of the training images, then bank and
    training images are both cut from the start of the same order, so that they are decoded once.
    """

    train_pool: Pool
    train: Tensor
    query_pool: Pool
    queries: Tensor
    bank_pool: Pool | None
    bank: Tensor


def _hold_out(
    opener: Opener, data: str | Source, settings: DataSettings, notes: list[str]
) -> _Split:
    """Opens --data and holds the queries out of it."""
    images, eval_images, bank_images = settings.images, settings.eval_images, settings.bank_images
    # The most images to read of a stream. Held-out queries are at most a fifth of the pool, so it
    # takes five times the wanted number.
    most = max(max(images, bank_images) + eval_images, 5 * eval_images)
    pool = opener.open(data, "train", most if images and eval_images else None)
    notes[:0] = pool.notes
    held = held_out(len(pool), eval_images)
    notes.append(f"{counted(held, 'image')} held out of {pool.name} as queries, never trained on")
    order = pool.order(settings.seed)
    rest = order[held:]
    return _Split(
        train_pool=pool,
        train=rest[: images or None],
        query_pool=pool,
        queries=order[:held],
        bank_pool=pool if len(pool.classes) > 1 else None,
        bank=rest[: bank_images or None],
    )


def _keep_apart(
    opener: Opener,
    data: str | Source,
    eval_data: str | Source,
    settings: DataSettings,
    notes: list[str],
) -> _Split:
    """Opens both; queries come from --eval-data, the bank from the one whose labels match them."""
    images, eval_images, bank_images = settings.images, settings.eval_images, settings.bank_images
    inner, outer = inside(eval_data, data), inside(data, eval_data)
    pool = opener.open(data, "train", max(images, bank_images) if images else None, inner)
    # The bank may have to come from --eval-data too; not with scenes, which have the same classes
    # on both sides.
    most = eval_images + (0 if data == BUILT_IN else bank_images)
    eval_pool = opener.open(eval_data, "eval", most if eval_images else None, outer)
    notes[:0] = pool.notes + eval_pool.notes
    if inner is not None or outer is not None:
        around, part = (data, eval_data) if inner is not None else (eval_data, data)
        notes.append(f"{part} lies inside {around} and is left out there")
    name, classes = eval_pool.name, eval_pool.classes
    if len(eval_pool) < MIN_IMAGES:
        raise UserError(
            f"{name} holds {counted(len(eval_pool), 'image')}; --eval-data needs {MIN_IMAGES}"
        )
    if len(classes) == 1:
        raise UserError(
            f"{name} holds images of one class only ({classes[0]}), nothing to tell apart; "
            "--eval-data needs two classes or more, or no class folders"
        )
    order, eval_order = pool.order(settings.seed), eval_pool.order(settings.seed)
    train = order[: images or None]
    if not classes or set(classes) <= set(pool.classes):
        if pool.classes and not classes:
            notes.append(
                f"{name} has no labels, so those of {pool.name} are not used; "
                "leave --eval-data out to use them"
            )
        bank_pool = pool if classes else None
        bank = order[: bank_images or None]
        return _Split(pool, train, eval_pool, eval_order[: eval_images or None], bank_pool, bank)
    half = len(eval_pool) // 2
    queries = eval_order[: min(eval_images or half, half)]
    bank = eval_order[len(queries) :][: bank_images or None]
    notes.append(
        f"{pool.name} has not the classes of {name}, which is split: "
        f"{len(bank)} images to learn from, {len(queries)} queries"
    )
    return _Split(pool, train, eval_pool, queries, eval_pool, bank)


def held_out(count: int, wanted: int) -> int:
    """The number of queries to hold out of `count` images: at most `wanted`, and about a fifth.

    The limit is a fifth of the images, or `PROBE_IMAGES` where that is more (but at most half of
    them). 0 for `wanted` means as many as that.

    Raises:
        UserError: there are too few images to hold some out and train on the rest.
    """
    if count < 2 * MIN_IMAGES:
        raise UserError(
            f"--data holds {counted(count, 'image')}; {2 * MIN_IMAGES} are needed to train on some "
            "and hold others out (or name --eval-data)"
        )
    limit = max(count // 5, min(PROBE_IMAGES, count // 2))
    return min(wanted or limit, limit)


def halves(labels: Tensor | None, seed: int, among: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Splits the queries into two disjoint halves with equal parts of each class.

    Args:
        labels: (Q,) int64, or None.
        seed: decides which query is in which half.
        among: int64 indices of the queries to split; all by default.

    Returns:
        Two tensors of int64 indices in ascending order; both empty without labels.
    """
    if labels is None:
        return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    among = torch.arange(len(labels)) if among is None else among
    order = among[balanced_order(labels[among], len(among), seeded_generator(seed, "halves"))]
    middle = len(among) // 2
    return order[:middle].sort().values, order[middle:].sort().values


def follow_size(sides: Sequence[int], max_image_size: int) -> int:
    """The image size for images with these shorter sides: their median, rounded down to steps of 8.

    It is at least 32 and at most `max_image_size`.
    """
    return max(32, min(int(median(sides)), max_image_size) // 8 * 8)


@dataclass(frozen=True)
class _Loader:
    """Decodes parts of pools at one size, and collects notes and bad files."""

    image_size: int
    memory_limit: int
    progress: Progress | None
    notes: list[str]
    left_out: LeftOut

    def load_split(self, split: _Split) -> tuple[Images, Images | None, Images]:
        """The training images, the bank and the queries."""
        queries = self._load(split.query_pool, split.queries)
        if split.bank_pool is split.train_pool:
            train, bank = self._load_both(split.train_pool, split.train, split.bank)
            return train, bank, _relabelled(queries, bank.classes)
        train = self._load(split.train_pool, split.train)
        if split.bank_pool is None:
            return train, None, queries
        return train, self._load(split.bank_pool, split.bank), queries

    def _load(self, pool: Pool, indices: Tensor) -> Images:
        images, bad = pool.load(
            indices, self.image_size, self.memory_limit, self.progress, self.left_out
        )
        if bad:
            count = counted(len(bad), "file that cannot be read", "files that cannot be read")
            self.notes.append(
                f"{pool.name}: {count} left out ({named(bad)}); {LISTED_IN} of the run lists them"
            )
        if len(images.classes) == 1:  # a single class cannot be classified
            self.notes.append(
                f"{pool.name}: all images are of one class, so it counts as unlabelled"
            )
            images.labels, images.classes = None, ()
        return images

    def _load_both(self, pool: Pool, train: Tensor, bank: Tensor) -> tuple[Images, Images]:
        """Training and bank images of the same order, decoded once if they fit into memory."""
        longer = max(train, bank, key=len)
        if len(longer) * 3 * self.image_size**2 > self.memory_limit:
            # Training images are decoded on demand then. The bank, which every rung reads as a
            # whole, may still fit into memory.
            return self._load(pool, train), self._load(pool, bank)
        images = self._load(pool, longer)
        # Bad files that are left out make the set smaller than the number asked for.
        first_train, first_bank = (torch.arange(min(len(x), len(images))) for x in (train, bank))
        return ImageSubset(images, first_train), ImageSubset(images, first_bank)


def _relabelled(images: Images, classes: tuple[str, ...]) -> Images:
    """Renumbers the labels of images for another list of classes that contains theirs."""
    if images.classes != classes:
        assert images.labels is not None
        numbers = torch.tensor([classes.index(name) for name in images.classes])
        images.labels, images.classes = numbers[images.labels], classes
    return images
