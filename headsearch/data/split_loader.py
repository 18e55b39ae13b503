"""`SplitLoader`: loads the training samples, the bank and the queries of a `Split`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headsearch.data.factory import Form, Pool
from headsearch.data.image.loading import Loading
from headsearch.data.image.skipped import LISTED_IN, named
from headsearch.data.image.store import Images, ImageSubset
from headsearch.data.partition import Split
from headsearch.data.sharing import ALONE
from headsearch.text import counted


@dataclass(frozen=True)
class SplitLoader:
    """Loads parts of pools in one form, and collects notes."""

    form: Form
    how: Loading
    notes: list[str]

    def load_split(self, split: Split) -> tuple[Images, Images | None, Images]:
        """The training images, the bank and the queries."""
        queries = self._load(split.query_pool, split.queries)
        shorter = min(len(split.train), len(split.bank))
        same_start = torch.equal(split.train[:shorter], split.bank[:shorter])
        if split.bank_pool is split.train_pool and same_start:
            train, bank = self._load_both(split.train_pool, split.train, split.bank)
            return train, bank, _relabelled(queries, bank.classes)
        train = self._load_training(split.train_pool, split.train)
        return (train, *self._with_bank(split, queries))

    def load_probes(self, split: Split) -> tuple[Images | None, Images]:
        """The bank, None without labels, and the queries."""
        return self._with_bank(split, self._load(split.query_pool, split.queries))

    def _with_bank(self, split: Split, queries: Images) -> tuple[Images | None, Images]:
        if split.bank_pool is None:
            return None, queries
        bank = self._load(split.bank_pool, split.bank)
        classes = bank.classes if split.classes is None else split.classes
        return _relabelled(bank, classes), _relabelled(queries, classes)

    def _load_training(self, pool: Pool, indices: Tensor) -> Images:
        # Every process decodes these itself: were they shared, all would hold the same images, and
        # nobody would see that the processes were given different data.
        how = replace(self.how, share=ALONE)
        return self._load(pool, indices, replace(self.form, cropped=True), how)

    def _load(
        self, pool: Pool, indices: Tensor, form: Form | None = None, how: Loading | None = None
    ) -> Images:
        images, bad = pool.load(indices, form or self.form, how or self.how)
        if bad:
            count = counted(len(bad), "file that cannot be read", "files that cannot be read")
            self.notes.append(
                f"{pool.name}: {count} left out ({named(bad)}); {LISTED_IN} of the run lists them"
            )
        if len(images.classes) == 1:  # a single class cannot be classified
            self.notes.append(
                f"{pool.name}: all {pool.noun}s are of one class, so it counts as unlabelled"
            )
            images.labels, images.classes = None, ()
        return images

    def _load_both(self, pool: Pool, train: Tensor, bank: Tensor) -> tuple[Images, Images]:
        """Training and bank images of the same order, decoded once if they fit into memory."""
        longer = max(train, bank, key=len)
        fits = len(longer) * self.form.shape.values <= self.how.memory_limit
        if self.form.store_size is not None or not fits:
            # Photos have another form for training. What does not fit is decoded on demand; the
            # bank, which every rung reads as a whole, may still fit.
            return self._load_training(pool, train), self._load(pool, bank)
        images = self._load(pool, longer, how=replace(self.how, share=ALONE))
        # Bad files that are left out make the set smaller than the number asked for.
        first_train, first_bank = (torch.arange(min(len(x), len(images))) for x in (train, bank))
        return ImageSubset(images, first_train), ImageSubset(images, first_bank)


def _relabelled(images: Images, classes: tuple[str, ...]) -> Images:
    """Renumbers the labels of images for another list of classes, which contains theirs."""
    if images.classes != classes and images.labels is not None:
        number = {name: index for index, name in enumerate(classes)}
        numbers = torch.tensor([number.get(name, -1) for name in images.classes])
        images.labels, images.classes = numbers[images.labels], classes
        assert int(images.labels.min()) >= 0
    return images
