"""`Split`: which images of the sources are for training, which are queries, and which are bank."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headsearch.data.factory import BUILT_IN, Opener, Pool
from headsearch.data.image.readers import Source
from headsearch.data.probe_classes import apart, classes_to_probe, images_of_classes, only_classes
from headsearch.data.settings import DataSettings
from headsearch.data.split_folders import inside
from headsearch.errors import UserError
from headsearch.text import counted

MIN_IMAGES = 32  # fewer are too few for a batch, and for the discrepancy
PROBE_IMAGES = 256  # from here on the discrepancy is stable (Nguyen et al. 2021, arXiv 2010.15327)


@dataclass(frozen=True)
class Split:
    """The pools and indices of training images, queries and bank.

    The bank's pool is None without labels. If it is the pool of the training images, and both are
    cut from the start of the same order, they are decoded once. `classes` are those of bank and
    queries, if they do not hold all.
    """

    train_pool: Pool
    train: Tensor
    query_pool: Pool
    queries: Tensor
    bank_pool: Pool | None
    bank: Tensor
    classes: tuple[str, ...] | None = None


def hold_out(opener: Opener, data: str | Source, settings: DataSettings, notes: list[str]) -> Split:
    """Opens --data and holds the queries out of it."""
    images, eval_images, bank_images = settings.images, settings.eval_images, settings.bank_images
    # The most images to read of a stream. Held-out queries are at most a fifth of the pool, so it
    # takes five times the wanted number.
    most = max(max(images, bank_images) + eval_images, 5 * eval_images)
    pool = opener.open(data, "train", most if images and eval_images else None)
    notes[:0] = pool.notes
    held = held_out(len(pool), eval_images, pool.noun)
    order = pool.order(settings.seed)
    queries, rest, classes = order[:held], order[held:], None
    bank = rest
    chosen = _probed(pool, None, settings, notes)
    if chosen is not None and pool.labels is not None:
        probed = only_classes(order, pool.labels, chosen)
        queries, bank = apart(probed, pool.labels, min(held, len(probed) // 2))
        rest = order[~torch.isin(order, queries)]
        classes = pool.names_of(chosen)
    notes.append(
        f"{counted(len(queries), pool.noun)} held out of {pool.name} as queries, never trained on"
    )
    return Split(
        train_pool=pool,
        train=rest[: images or None],
        query_pool=pool,
        queries=queries,
        bank_pool=pool if len(pool.classes) > 1 else None,
        bank=bank[: bank_images or None],
        classes=classes,
    )


def _probed(
    pool: Pool, query_pool: Pool | None, settings: DataSettings, notes: list[str]
) -> Tensor | None:
    """The classes of `pool` to probe, if not all; see `classes_to_probe`.

    Args:
        pool: the bank is drawn from it.
        query_pool: the queries are drawn from it; None if from `pool` too.
        settings: how many images and classes to use.
        notes: gets a note if classes are left out.
    """
    if pool.labels is None or len(pool.classes) <= 2:
        return None
    in_bank = images_of_classes(pool.labels, pool.classes, pool.classes)
    of_queries = None
    if query_pool is not None:
        assert query_pool.labels is not None
        of_queries = images_of_classes(query_pool.labels, query_pool.classes, pool.classes)
        in_bank = in_bank * (of_queries > 0)
    chosen = classes_to_probe(
        in_bank,
        of_queries,
        settings.probe_classes,
        settings.bank_images,
        settings.eval_images,
        settings.seed,
    )
    if chosen is None:
        return None
    notes.append(
        f"accuracy is that of {len(chosen)} of {len(pool.classes)} classes, drawn by the seed; "
        f"training {pool.noun}s are of all (--probe-classes, --bank-images)"
    )
    return chosen


def keep_apart(
    opener: Opener,
    data: str | Source,
    eval_data: str | Source,
    settings: DataSettings,
    notes: list[str],
) -> Split:
    """Opens both; queries come from --eval-data, the bank from the one whose labels match them."""
    images, eval_images, bank_images = settings.images, settings.eval_images, settings.bank_images
    inner, outer = inside(eval_data, data), inside(data, eval_data)
    pool = opener.open(data, "train", max(images, bank_images) if images else None, inner)
    bank_data, eval_data = opener.bank_and_queries(eval_data)
    # The bank may have to come from --eval-data too; not with scenes, which have the same classes
    # on both sides.
    most = eval_images + (0 if data == BUILT_IN else bank_images)
    bounded = eval_images and (bank_images or data == BUILT_IN)
    eval_pool = opener.open(eval_data, "eval", most if bounded else None, outer)
    notes[:0] = pool.notes + eval_pool.notes
    if inner is not None or outer is not None:
        around, part = (data, eval_data) if inner is not None else (eval_data, data)
        notes.append(f"{part} lies inside {around} and is left out there")
    name, classes = eval_pool.name, eval_pool.classes
    if len(eval_pool) < MIN_IMAGES:
        raise UserError(
            f"{name} holds {counted(len(eval_pool), eval_pool.noun)}; --eval-data needs "
            f"{MIN_IMAGES}"
        )
    if len(classes) == 1:
        raise UserError(
            f"{name} holds {eval_pool.noun}s of one class only ({classes[0]}), nothing to tell "
            "apart; --eval-data needs two classes or more, or no class folders"
        )
    bank_source = pool if bank_data is None else opener.open(bank_data, "train", None)
    if bank_source is not pool:
        notes[:0] = bank_source.notes
        lacking = sorted(set(classes) - set(bank_source.classes))
        if lacking or not classes:
            what = f"lacks the class {lacking[0]}" if lacking else f"{name} has no labels"
            raise UserError(f"{bank_data} cannot be the bank of {name}: {what}")
    order, eval_order = pool.order(settings.seed), eval_pool.order(settings.seed)
    train, bank = order[: images or None], order
    if bank_source is not pool:
        bank = bank_source.order(settings.seed)
    if not classes or set(classes) <= set(bank_source.classes):
        if bank_source.classes and not classes:
            notes.append(
                f"{name} has no labels, so those of {pool.name} are not used; "
                "leave --eval-data out to use them"
            )
        bank_pool, names = bank_source if classes else None, None
        chosen = _probed(bank_source, eval_pool, settings, notes) if classes else None
        if chosen is not None and bank_source.labels is not None and eval_pool.labels is not None:
            names = bank_source.names_of(chosen)
            bank = only_classes(bank, bank_source.labels, chosen)
            numbers = [index for index, each in enumerate(classes) if each in set(names)]
            eval_order = only_classes(eval_order, eval_pool.labels, torch.tensor(numbers))
        queries, bank = eval_order[: eval_images or None], bank[: bank_images or None]
        return Split(pool, train, eval_pool, queries, bank_pool, bank, names)
    names = None
    chosen = _probed(eval_pool, None, settings, notes)
    if chosen is not None and eval_pool.labels is not None:
        names = eval_pool.names_of(chosen)
        eval_order = only_classes(eval_order, eval_pool.labels, chosen)
    half = len(eval_order) // 2
    most = min(eval_images or half, half)
    queries, bank = eval_order[:most], eval_order[most:]
    if names is not None and eval_pool.labels is not None:
        queries, bank = apart(eval_order, eval_pool.labels, most)
    bank = bank[: bank_images or None]
    notes.append(
        f"{pool.name} has not the classes of {name}, which is split: "
        f"{counted(len(bank), eval_pool.noun)} to learn from, {len(queries)} queries"
    )
    return Split(pool, train, eval_pool, queries, eval_pool, bank, names)


def held_out(count: int, wanted: int, noun: str = "image") -> int:
    """The number of queries to hold out of `count` images: at most `wanted`, and about a fifth.

    The limit is a fifth of the images, or `PROBE_IMAGES` where that is more (but at most half of
    them). 0 for `wanted` means as many as that.

    Raises:
        UserError: there are too few images to hold some out and train on the rest.
    """
    if count < 2 * MIN_IMAGES:
        raise UserError(
            f"--data holds {counted(count, noun)}; {2 * MIN_IMAGES} are needed to train on some "
            "and hold others out (or name --eval-data)"
        )
    limit = max(count // 5, min(PROBE_IMAGES, count // 2))
    return min(wanted or limit, limit)
