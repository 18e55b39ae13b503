"""`open_tasks`: opens the further evaluation sets that `--tasks` names, in the form of the run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from headsearch.config.domains import TEXT, words_of
from headsearch.config.task_settings import TaskSpec
from headsearch.data.domains import DOMAINS
from headsearch.data.factory import Form
from headsearch.data.image.loading import Loading
from headsearch.data.image.skipped import LeftOut, named
from headsearch.data.image.store import Images
from headsearch.data.order import balanced_order
from headsearch.data.partition import hold_out, keep_apart
from headsearch.data.settings import DataSettings
from headsearch.data.split_loader import SplitLoader
from headsearch.data.splits import classifiable
from headsearch.data.text.pairs import Pairs, read_pairs
from headsearch.data.text.pool import TextPool, TextSource
from headsearch.data.text.tables import TABLES, Rows
from headsearch.errors import UserError
from headsearch.seeding import seeded_generator
from headsearch.text import counted

LEAST_PAIRS = 60
"""Fewer pairs are too few for the groups of the jackknife."""


@dataclass(frozen=True)
class Task:
    """A further evaluation set.

    Attributes:
        name: what it is called.
        domain: the kind of its data.
        queries: the samples that are classified; of pairs all first texts, then all second ones.
        bank: the labelled samples that proxies are fitted on; None of pairs.
        order: (M,) int64 indices of the queries, or (P,) of the pairs, that count, in an order of
            which every part is a sample of all classes.
        scores: (P,) float64, how alike the texts of each pair are; None of a task with classes.
        notes: what was understood.
    """

    name: str
    domain: str
    queries: Images
    bank: Images | None
    order: Tensor
    scores: Tensor | None = None
    notes: tuple[str, ...] = field(default=())


def open_tasks(
    specs: Sequence[TaskSpec], settings: DataSettings, form: Form, left_out: LeftOut
) -> tuple[Task, ...]:
    """Opens some tasks; the numbers of samples and the seed are those of the run.

    Args:
        specs: the tasks.
        settings: those of the run's data.
        form: what becomes of a sample in the run.
        left_out: collects the files that cannot be used.

    Raises:
        UserError: data cannot be read, have no labels, or too few of them.
    """
    form = replace(form, cropped=False)
    tasks = []
    for spec in specs:
        pairs = _pairs_of(spec, settings)
        if pairs is not None:
            tasks.append(_of_pairs(spec, pairs, settings, form, left_out))
        else:
            tasks.append(_of_classes(spec, settings, form, left_out))
    left_out.check()
    return tuple(tasks)


def fingerprint(tasks: Sequence[Task]) -> str:
    """A hash of labels, scores and shapes, to check that a resumed run has the same tasks."""
    digest = hashlib.sha256()
    for task in tasks:
        about = [task.name, len(task.queries), task.queries.shape, task.queries.classes]
        digest.update(repr((about, task.order.tolist())).encode())
        for images in (task.queries, task.bank):
            if images is not None and images.labels is not None:
                digest.update(images.labels.numpy().tobytes())
        if task.scores is not None:
            digest.update(task.scores.numpy().tobytes())
    return digest.hexdigest()[:16]


def _pairs_of(spec: TaskSpec, settings: DataSettings) -> Pairs | None:
    """The pairs of texts that a task names; None if it names samples with classes."""
    path = Path(spec.places[0]).expanduser()
    if settings.domain != TEXT or path.suffix.lower() not in TABLES or not path.is_file():
        return None
    pairs = read_pairs(path, spec.labels)
    if pairs is not None and len(spec.places) > 1:
        raise UserError(
            f"--tasks {spec.name}: {spec.places[0]} holds pairs of texts, for which there is no "
            "bank: name one table, and another as a task of its own"
        )
    return pairs


def _of_pairs(
    spec: TaskSpec, pairs: Pairs, settings: DataSettings, form: Form, left_out: LeftOut
) -> Task:
    """A task of pairs: those of which a text cannot be used are left out."""
    place, total = spec.places[0], len(pairs.scores)
    pool = TextPool(
        TextSource(
            place, Rows(pairs.first + pairs.second, None, pairs.lines * 2), [place] * 2 * total
        )
    )
    usable, bad = pool.usable()
    whole = [index for index in range(total) if usable[index] and usable[total + index]]
    if len(whole) < LEAST_PAIRS:
        raise UserError(
            f"--tasks {spec.name}: {place} has {counted(len(whole), 'usable pair')}; "
            f"{LEAST_PAIRS} are needed"
        )
    drawn = torch.randperm(len(whole), generator=seeded_generator(settings.seed, "pairs"))
    kept = torch.tensor(whole)[drawn[: settings.eval_images or None]]
    how = Loading(settings.memory_limit, settings.check, None, left_out)
    queries, _ = pool.load(torch.cat([kept, kept + total]), form, how)
    scores = torch.tensor(pairs.scores, dtype=torch.float64)[kept]
    if len(scores.unique()) < 2:
        raise UserError(f"--tasks {spec.name}: all pairs of {place} have the same score")
    notes = [f"task {spec.name}: {len(kept)} pairs of texts of {place}"]
    if bad:
        notes.append(
            f"task {spec.name}: {counted(total - len(whole), 'pair')} left out ({named(bad)})"
        )
    return Task(
        spec.name, settings.domain, queries, None, torch.arange(len(kept)), scores, tuple(notes)
    )


def _of_classes(spec: TaskSpec, settings: DataSettings, form: Form, left_out: LeftOut) -> Task:
    """A task with classes: bank and queries are two sets, or parts of one."""
    notes: list[str] = []
    settings = _settings_of(spec, settings)
    opener = DOMAINS[settings.domain].opener(settings, alone=True)
    if len(spec.places) == 1:
        split = hold_out(opener, spec.places[0], settings, notes)
    else:
        bank_place, query_place = spec.places
        split = keep_apart(opener, bank_place, query_place, settings, notes)
        if split.bank_pool is split.query_pool:
            lacking = sorted(set(split.query_pool.classes) - set(split.train_pool.classes))
            raise UserError(
                f"--tasks {spec.name}: {bank_place} lacks the class {lacking[0]} of {query_place}"
            )
    words, place = words_of(settings.domain), ",".join(spec.places)
    notes.clear()  # they are worded for the data that a base is trained on
    how = Loading(settings.memory_limit, settings.check, None, left_out)
    bank, queries = SplitLoader(form, how, notes).load_probes(split)
    if bank is None or bank.labels is None or queries.labels is None:
        raise UserError(
            f"--tasks {spec.name}: {place} has no labels of two classes or more; name a column or "
            "a file with @LABELS"
        )
    warnings: list[str] = []
    judged, unused = classifiable(bank, queries, warnings, words)
    if judged is None:
        raise UserError(f"--tasks {spec.name}: {unused}")
    balanced = balanced_order(
        queries.labels[judged], len(judged), seeded_generator(settings.seed, "halves")
    )
    sizes = f"{counted(len(bank), f'bank {words.sample}')}, {len(judged)} queries"
    about = f"{sizes}, {counted(len(bank.classes), 'class', 'classes')} of {place}"
    lines = (about, *notes, *(f"warning: {each}" for each in warnings))
    return Task(
        spec.name, settings.domain, queries, bank, judged[balanced],
        notes=tuple(f"task {spec.name}: {line}" for line in lines),
    )  # fmt: skip


def _settings_of(spec: TaskSpec, settings: DataSettings) -> DataSettings:
    """The settings that open a task: those of the run, with the labels of the task."""
    text, labels = replace(settings.text, text_column=None, label_column=None), "auto"
    if spec.labels is not None:
        if settings.domain == TEXT and not Path(spec.labels).expanduser().is_file():
            text = replace(text, label_column=spec.labels)
        else:
            labels = spec.labels
    return replace(settings, images=0, labels=labels, text=text)
