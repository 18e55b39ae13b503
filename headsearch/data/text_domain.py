"""`TextDomain`: texts as token ids of one length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from headsearch.config import normalization
from headsearch.config.domains import TEXT
from headsearch.config.input_shape import InputShape
from headsearch.config.normalization import UNCHANGED, Normalization
from headsearch.config.settings import RunConfig
from headsearch.config.text_views import TextViews, views_for_texts
from headsearch.data.domain import Domain, Views
from headsearch.data.factory import Form, Opener
from headsearch.data.file_kinds import TEXTS
from headsearch.data.image.store import Images
from headsearch.data.partition import Split
from headsearch.data.settings import DataSettings
from headsearch.data.text.pool import TextOpener, TextPool, fitted_encoder
from headsearch.data.text.tokens import raw_counts, unpacked
from headsearch.data.text.views import make_text_views
from headsearch.errors import UserError

MOST_WORDS = 4096
"""The most tokens that the baseline without learning counts, those in the most texts."""


class TextDomain(Domain):
    """Texts. Shorter ones are padded: the base says where its maps hold data."""

    name, files, space = TEXT, TEXTS, "sequence.yaml"
    settings = ("text_tokens", "vocab_size", "text_column", "label_column")

    def check(self, config: RunConfig) -> None:
        if config.patch_size is not None:
            raise UserError("--patch-size is for images and clips: leave it out")
        if config.compile:
            raise UserError("--compile works for bases of images and clips: leave it out")
        if config.base_weights is not None:
            raise UserError(
                "--base-weights: the first weights of a text base are those of its folder: --base "
                "hf:FOLDER"
            )
        if config.normalization not in (normalization.AUTO, str(UNCHANGED)):
            raise UserError("--normalization is for images and clips: leave it out")

    def opener(self, settings: DataSettings, *, alone: bool) -> Opener:
        return TextOpener(settings, alone)

    def form(self, split: Split, settings: DataSettings, notes: list[str]) -> Form:
        assert isinstance(split.train_pool, TextPool)
        encoder = fitted_encoder(split.train_pool, settings.text)
        shape = encoder.shape
        notes.append(
            f"texts are {shape.width} tokens of a vocabulary of {shape.vocabulary}: longer ones "
            "are cut, shorter ones padded, and padding is left out of every map"
        )
        return Form(shape, encoder=encoder)

    def resolved(self, form: Form) -> Mapping[str, Any]:
        return {"text_tokens": form.shape.width, "vocab_size": form.shape.vocabulary}

    def shape_of(self, config: RunConfig) -> InputShape | None:
        if config.text_tokens is None or config.vocab_size is None:
            return None
        return InputShape.text(config.text_tokens, config.vocab_size)

    def views(self, config: RunConfig, shape: InputShape) -> Views:
        return views_for_texts(config.views)

    def make_views(
        self,
        batch: Tensor,
        generator: torch.Generator | None,
        views: Views,
        count: int,
        part: tuple[int, int],
        scale: Normalization,
        side: int | None = None,
    ) -> Tensor:
        return make_text_views(batch, generator, cast(TextViews, views), count, part)

    def as_input(self, batch: Tensor, scale: Normalization) -> Tensor:
        return unpacked(batch)

    def normalization(self, text: str, train: Images) -> Normalization:
        return UNCHANGED

    def raw(self, batches: Iterable[Tensor], shape: InputShape, side: int = 32) -> Tensor:
        """TF-IDF of the tokens, (N, X), of unit length.

        Counts c become 1 + log c, times log(N / texts with the token), the numbers of all batches.
        """
        # Counts over the whole vocabulary are made twice, part by part: those of all texts together
        # may not fit into memory.
        parts = [unpacked(batch) for batch in batches]
        texts = torch.stack(
            [(raw_counts(ids_BL, shape.vocabulary) > 0).sum(dim=0) for ids_BL in parts]
        ).sum(dim=0)
        used = texts.topk(min(MOST_WORDS, len(texts))).indices
        used = used[texts[used] > 0]
        weights = (sum(map(len, parts)) / texts[used]).log()
        counts = torch.cat([raw_counts(ids_BL, shape.vocabulary)[:, used] for ids_BL in parts])
        return F.normalize(torch.where(counts > 0, 1 + counts.log(), counts) * weights, dim=1)
