"""`TextPool`: the texts that `--data` names, which become token ids of one length."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from headsearch.config.text_settings import LONGEST_TEXT, SHORTEST_TEXT, STEP, VOCABULARY
from headsearch.data.factory import BUILT_IN, Form, ItemsPool, Opener, Pool, Role
from headsearch.data.file_kinds import TEXTS
from headsearch.data.image.file_source import FileSource
from headsearch.data.image.label_files import in_order
from headsearch.data.image.loading import Loading, load_inputs
from headsearch.data.image.readers import files_below, nearest, open_named
from headsearch.data.image.source import Items, Source
from headsearch.data.image.store import Images
from headsearch.data.settings import TextSettings
from headsearch.data.text.tables import COLUMNS, RECORDS, TABLES, Rows, read_table
from headsearch.data.text.tokens import (
    TRAINED_ON,
    BadText,
    Encoder,
    cleaned,
    new_tokenizer,
    read_tokenizer,
)
from headsearch.errors import UserError

BETWEEN = "::"
"""Stands between the files of a data set of several."""
FITTING = 0.95
"""The share of texts that fit into the chosen length."""
LOOKED_AT = 2000
"""The number of texts, spread evenly over a set, that decide about the length."""


class TextSource(Items):
    """Texts in memory."""

    def __init__(self, name: str, rows: Rows, places: list[str]) -> None:
        self.name, self.texts, self.notes = name, rows.texts, rows.notes
        self.others = rows.others
        self._places, self._lines = places, rows.lines
        if rows.labels is not None:
            self.classes = in_order(rows.labels)
            numbers = {each: index for index, each in enumerate(self.classes)}
            self.labels = torch.tensor([numbers[label] for label in rows.labels])

    def __len__(self) -> int:
        return len(self.texts)

    def check(self, index: int) -> None:
        cleaned(self.texts[index], LONGEST_TEXT)

    def describe(self, index: int) -> str:
        place, line = self._places[index], self._lines[index]
        return f"{place} line {line}" if line else place


class TextPool(ItemsPool):
    """Texts that are no token ids yet; see `Pool`."""

    noun = TEXTS.noun

    def __init__(self, source: TextSource) -> None:
        super().__init__(source)
        self.source = source

    def usable(self) -> tuple[list[bool], list[str]]:
        """Whether each text can be used, and the names of those that cannot."""
        usable, bad = [True] * len(self), []
        for index in range(len(self)):
            try:
                self.source.check(index)
            except BadText:
                usable[index] = False
                bad.append(self.source.describe(index))
        return usable, bad

    def cleaned(self, most: int) -> list[str]:
        """The usable ones of the first texts.

        Raises:
            UserError: none of them is usable.
        """
        found = []
        for text in self.source.texts[:most]:
            try:
                found.append(cleaned(text, LONGEST_TEXT))
            except BadText:
                continue
        if not found:
            raise UserError(f"{self.name}: none of its {len(self)} texts can be used")
        return found

    def load(self, indices: Tensor, form: Form, how: Loading) -> tuple[Images, list[str]]:
        encoder, texts = form.encoder, self.source.texts
        assert encoder is not None
        self.list_others(how)
        return load_inputs(
            self.source, indices, form.shape, lambda i: encoder.packed(texts[i]), how
        )


class TextOpener(Opener):
    """Opens the texts that `--data` or `--eval-data` names; see `Opener`."""

    def open(
        self, spec: str | Source, role: Role, count: int | None, without: Path | None = None
    ) -> Pool:
        if isinstance(spec, Source):
            raise UserError(f"{spec}: --domain text reads files of texts, not a data set")
        parts = [self._rows(part, role, without) for part in spec.split(BETWEEN)]
        texts = [text for rows, _ in parts for text in rows.texts]
        labels = [label for rows, _ in parts for label in rows.labels or ()]
        rows = Rows(
            texts,
            labels if labels and len(labels) == len(texts) else None,
            [line for rows, _ in parts for line in rows.lines],
            tuple(note for rows, _ in parts for note in rows.notes),
            [file for rows, _ in parts for file in rows.others],
        )
        if self.settings.labels == "none":
            rows = replace(rows, labels=None)
        return TextPool(TextSource(spec, rows, [place for _, places in parts for place in places]))

    def bank_and_queries(self, eval_data: str | Source) -> tuple[str | None, str | Source]:
        """The files of bank and queries in `--eval-data BANK,QUERIES`."""
        if isinstance(eval_data, str) and not Path(eval_data).expanduser().exists():
            bank, comma, queries = eval_data.partition(",")
            if comma and bank and queries:
                return bank, queries
        return None, eval_data

    def _rows(self, part: str, role: Role, without: Path | None) -> tuple[Rows, list[str]]:
        """The texts of a file or folder, and the name of the place of each."""
        if part == BUILT_IN:
            raise UserError(
                f"--data {BUILT_IN} are the built-in images, and there are no built-in texts: name "
                "a file of texts"
            )
        path, settings = Path(part).expanduser(), self.settings
        if path.suffix.lower() in TABLES and not path.is_dir():
            if not path.is_file():
                raise UserError(f"{part} does not exist{nearest(path)}")
            if settings.labels not in ("auto", "none"):
                raise UserError(
                    f"--labels {settings.labels} is for files of one text each: the labels of "
                    f"{part} are a column (--label-column)"
                )
            if path.stat().st_size > settings.memory_limit:
                raise UserError(
                    f"{part} has {path.stat().st_size / 2**30:.1f} GiB, more than --memory: texts "
                    "are held in memory"
                )
            rows = read_table(path, settings.text.text_column, settings.text.label_column)
            return rows, [part] * len(rows.texts)
        held = [file.name for file in sorted(path.iterdir())] if path.is_dir() else []
        tables = [file for file in held if Path(file).suffix.lower() in (*COLUMNS, *RECORDS)]
        if tables and not any(map(TEXTS.includes, files_below(path))):
            raise UserError(f"{part} is a folder of tables: name one of them, {path / tables[0]}")
        return _of_files(open_named(part, role, self.labelling(), without, TEXTS))


def _of_files(files: FileSource) -> tuple[Rows, list[str]]:
    """The texts of files of one text each."""
    texts = [files.read(i).decode("utf-8-sig", "surrogateescape") for i in range(len(files))]
    labels = None
    if files.labels is not None:
        labels = [files.classes[label] for label in files.labels.tolist()]
    places = [files.describe(i) for i in range(len(files))]
    return Rows(texts, labels, [0] * len(texts), files.notes, files.others), places


def fitted_encoder(pool: TextPool, asked: TextSettings) -> Encoder:
    """The tokenizer and the length for some texts, where the settings leave them to the texts.

    Raises:
        UserError: the tokenizer of the base cannot be used.
    """
    tokenizer = None if asked.folder is None else read_tokenizer(asked.folder)
    if tokenizer is None:
        size = asked.vocab_size or VOCABULARY
        tokenizer = new_tokenizer(pool.cleaned(TRAINED_ON), size)
    elif asked.vocab_size not in (None, tokenizer.get_vocab_size()):
        raise UserError(
            f"--vocab-size {asked.vocab_size}: the base has a tokenizer of its own, of "
            f"{tokenizer.get_vocab_size()} tokens: leave it out"
        )
    length = asked.tokens
    if length is None:
        texts = pool.cleaned(TRAINED_ON)
        spread = texts[:: max(1, len(texts) // LOOKED_AT)]
        lengths = sorted(len(each.ids) for each in tokenizer.encode_batch(spread))
        fitting = lengths[math.ceil(FITTING * len(lengths)) - 1]
        length = min(LONGEST_TEXT, max(SHORTEST_TEXT, math.ceil(fitting / STEP) * STEP))
    tokenizer.enable_truncation(length)  # special tokens at the end stay
    return Encoder(tokenizer, length)
