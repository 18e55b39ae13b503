"""`open_data`: opens `--data` and `--eval-data` and splits them into training, bank and queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from headsearch.config.domains import IMAGE, Words, words_of
from headsearch.data.copies import warnings_about
from headsearch.data.domains import DOMAINS
from headsearch.data.factory import Form
from headsearch.data.image.loading import Loading
from headsearch.data.image.readers import Source
from headsearch.data.image.skipped import LeftOut
from headsearch.data.image.store import Images, Progress
from headsearch.data.order import balanced_order
from headsearch.data.partition import MIN_IMAGES, PROBE_IMAGES, hold_out, keep_apart
from headsearch.data.probe_classes import BANK_IMAGES
from headsearch.data.settings import DEFAULTS, DataSettings
from headsearch.data.sharing import ALONE, Share
from headsearch.data.split_folders import resolve_splits, same
from headsearch.data.split_loader import SplitLoader
from headsearch.data.text.tokens import Encoder
from headsearch.errors import UserError
from headsearch.seeding import seeded_generator
from headsearch.text import counted


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
        unused_labels: why the labels of the queries are not used; empty if they are, or if there
            are none.
        domain: the kind of data.
        resolved: the settings of `open_data` that the data have decided, by their name in
            `RunConfig`; without those of images.
        form: what became of the samples; None of data that are not opened by `open_data`.
    """

    train: Images
    bank: Images | None
    queries: Images
    choose: Tensor
    report: Tensor
    notes: tuple[str, ...]
    left_out: LeftOut
    warnings: tuple[str, ...] = ()
    unused_labels: str = ""
    domain: str = IMAGE
    resolved: Mapping[str, Any] = field(default_factory=dict)
    form: Form | None = None

    @property
    def encoder(self) -> Encoder | None:
        """What turned texts into tokens; None of other data."""
        return None if self.form is None else self.form.encoder


def open_data(
    data: str | Source,
    eval_data: str | Source | None = None,
    settings: DataSettings = DEFAULTS,
    progress: Progress | None = None,
    share: Share = ALONE,
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
        share: what of the bank and the queries this process decodes, where its job has several.

    Raises:
        UserError: there is nothing at this path, or there are no images, too few, or too many bad
            ones; the evaluation images have a single class; or a prefix is unknown or its package
            is missing.
    """
    notes: list[str] = []
    data, eval_data = resolve_splits(data, eval_data, notes, DOMAINS[settings.domain].files)
    if eval_data is not None and same(data, eval_data):
        notes.append("--eval-data names the same data as --data, so queries are held out of it")
        eval_data = None
    judged = None
    loaded = _load(data, eval_data, settings, progress, share, notes)
    warnings = list(
        warnings_about(
            loaded.queries,
            loaded.train,
            loaded.bank,
            own_queries=eval_data is not None,
            words=words_of(settings.domain),
        )
    )
    bank, queries, unused = loaded.bank, loaded.queries, ""
    if bank is not None:
        judged, unused = classifiable(bank, queries, warnings, words_of(settings.domain))
        if judged is None:
            warnings.append(f"{unused}, so the data count as unlabelled")
            bank, queries.labels, queries.classes = None, None, ()
    if bank is None:
        what = "the labels are not used" if unused else "no labels"
        notes.append(f"{what}: accuracy columns stay empty, the ranking is by discrepancy")
    if len(queries) < PROBE_IMAGES:
        notes.append(
            f"only {counted(len(queries), 'query', 'queries')}: discrepancy intervals will be "
            f"wide; {PROBE_IMAGES} or more are advised"
        )
    choose, report = halves(queries.labels, settings.seed, judged)
    all_notes = tuple(dict.fromkeys([*notes, *(f"warning: {each}" for each in warnings)]))
    return Data(
        loaded.train, bank, queries, choose, report, all_notes, loaded.left_out, tuple(warnings),
        unused, settings.domain, loaded.resolved, loaded.form,
    )  # fmt: skip


@dataclass(frozen=True)
class _Loaded:
    """The decoded images of a run."""

    train: Images
    bank: Images | None
    queries: Images
    left_out: LeftOut
    resolved: Mapping[str, Any]
    form: Form


def _load(
    data: str | Source,
    eval_data: str | Source | None,
    settings: DataSettings,
    progress: Progress | None,
    share: Share,
    notes: list[str],
) -> _Loaded:
    """Opens, splits and decodes the images; queries are held out of `data` without `eval_data`."""
    domain = DOMAINS[settings.domain]
    opener = domain.opener(settings, alone=eval_data is None)
    if eval_data is None:
        split = hold_out(opener, data, settings, notes)
    else:
        split = keep_apart(opener, data, eval_data, settings, notes)
    if len(split.train) < MIN_IMAGES:
        raise UserError(
            f"{data}: {counted(len(split.train), domain.words.sample)} to train on; at least "
            f"{MIN_IMAGES} are needed"
        )
    form = domain.form(split, settings, notes)
    left_out = LeftOut(settings.max_bad_images, domain.words.sample)
    how = Loading(settings.memory_limit, settings.check, progress, left_out, share)
    loader = SplitLoader(form, how, notes)
    train, bank, queries = loader.load_split(split)
    left_out.check()
    return _Loaded(train, bank, queries, left_out, domain.resolved(form), form)


def classifiable(
    bank: Images, queries: Images, warnings: list[str], words: Words
) -> tuple[Tensor | None, str]:
    """Indices of the queries whose class is in the bank, or None and why they say nothing.

    No proxy can classify the other queries, whatever the features, so they do not count. Where they
    are most of the queries, the accuracies would be those of a few classes that nobody chose.
    """
    assert bank.labels is not None
    assert queries.labels is not None
    known = bank.labels.unique()
    judged = torch.isin(queries.labels, known).nonzero().flatten()
    missing = len(queries) - len(judged)
    found = ""
    if missing:
        what = "is of a class" if missing == 1 else "are of classes"
        found = (
            f"{missing} of {counted(len(queries), 'query', 'queries')} {what} that none of the "
            f"{counted(len(bank), f'bank {words.sample}')} is of"
        )
    if missing > len(judged) or len(judged) < 2:
        return None, found or "there are too few queries"
    if len(known) < 2:
        return None, f"all bank {words.samples} are of one class"
    if missing:
        warnings.append(
            f"{found}, and left out of accuracies; use a larger --bank-images, or "
            f"{words.samples} of more of the classes"
        )
    few = int((torch.bincount(bank.labels)[known] < BANK_IMAGES).sum())
    if few:
        warnings.append(
            f"{few} of {counted(len(known), 'class', 'classes')} {'has' if few == 1 else 'have'} "
            f"fewer than {BANK_IMAGES} bank {words.samples}, so accuracies are rough; use a larger "
            "--bank-images or a lower --probe-classes"
        )
    return judged, ""


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
