"""`Encoder`: turns texts into token ids of one length.

Token ids are kept as bytes, so that texts are stored, ordered and split as images are: a text is
(3, 1, L) uint8, the bytes of id + 1, lowest first, and 0 behind its end. Shapes: L tokens.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headsearch.config.input_shape import TOKEN_BYTES, InputShape
from headsearch.data.image.decode import BadImage
from headsearch.errors import UserError

TOKENIZER = "tokenizer.json"
"""The file of a model folder, and of a run, with the tokenizer."""
PAD = "[PAD]"
"""The padding token of a vocabulary of our own. Its id is 0."""
CHARACTERS = 64
"""The most characters for each token that is kept: what comes later is not looked at."""
TRAINED_ON = 200_000
"""The most texts that a vocabulary is made from, the first ones of the training data."""


class BadText(BadImage):
    """A text that cannot be used. The message says why, in a few words."""


@dataclass(frozen=True)
class Encoder:
    """A tokenizer, and the length that texts are cut or padded to.

    Attributes:
        tokenizer: a `tokenizers.Tokenizer`.
        length: L.
    """

    tokenizer: Any
    length: int

    @property
    def shape(self) -> InputShape:
        """The shape of a text."""
        return InputShape.text(self.length, self.tokenizer.get_vocab_size())

    def packed(self, text: str) -> NDArray[np.uint8]:
        """The tokens of a text, (3, 1, L) uint8.

        Raises:
            BadText: the text is empty, or not UTF-8.
        """
        ids = self.tokenizer.encode(cleaned(text, self.length)).ids
        return pack(ids[: self.length], self.length)


def cleaned(text: str, length: int) -> str:
    """A text without control characters and surplus spaces, no longer than tokens may need.

    Raises:
        BadText: nothing is left, or it holds bytes that are no UTF-8.
    """
    text = text[: CHARACTERS * length]
    if any("\udc80" <= character <= "\udcff" for character in text):
        raise BadText("not UTF-8")
    shown = (" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
    words = "".join(shown).split()
    if not words:
        raise BadText("empty")
    return unicodedata.normalize("NFC", " ".join(words))


def pack(ids: list[int], length: int) -> NDArray[np.uint8]:
    """Token ids as bytes, (3, 1, L) uint8; see the top of this file. Raises BadText for none."""
    if not ids:
        raise BadText("no tokens")
    kept = np.zeros(length, np.int64)
    kept[: len(ids)] = np.asarray(ids) + 1
    shifts = 8 * np.arange(TOKEN_BYTES)[:, None, None]
    return ((kept >> shifts) & 255).astype(np.uint8)


def unpacked(batch: Tensor) -> Tensor:
    """Token ids (B, L) int64 of texts (B, 3, 1, L) uint8; -1 behind their end."""
    low, middle, high = batch[:, :, 0].long().unbind(1)
    return low + (middle << 8) + (high << 16) - 1


def new_tokenizer(texts: Iterable[str], size: int) -> Any:
    """A tokenizer with a vocabulary made from texts: byte-level BPE, which knows every text.

    The same texts give the same vocabulary.

    Args:
        texts: cleaned texts.
        size: the most tokens.
    """
    tokenizers = library()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder; None if it has none.

    Raises:
        UserError: its file cannot be read.
    """
    file = folder / TOKENIZER
    if not file.exists():
        return None
    try:
        tokenizer = library().Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises `Exception` itself
        raise UserError(f"{file}: cannot be read as a tokenizer: {error}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def library() -> Any:
    """The package `tokenizers`. Raises UserError if it is not installed."""
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError:
        raise UserError("--domain text needs tokenizers: pip install 'headsearch[text]'") from None
    return tokenizers


def raw_counts(ids_BL: Tensor, vocabulary: int) -> Tensor:
    """How often each token is in each text, (B, V) float32, from ids with -1 as padding."""
    counts = torch.zeros(len(ids_BL), vocabulary + 1)
    counts.scatter_add_(1, ids_BL + 1, torch.ones_like(ids_BL, dtype=torch.float32))
    return counts[:, 1:]
