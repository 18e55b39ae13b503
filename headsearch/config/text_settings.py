"""The settings of `--domain text`: how texts become token ids of one length."""

from __future__ import annotations

from headsearch.config.panels import TEXT, setting

VOCABULARY = 8192
"""The most tokens of a vocabulary that is made from the training texts."""
SHORTEST_TEXT, LONGEST_TEXT = 8, 128
"""The least number of tokens, and the largest that is chosen where none is given."""
STEP = 8
"""The number of tokens that is chosen is a multiple of this."""

TEXT_TOKENS = setting(
    None,
    "Tokens that a text is cut or padded to. [default: so many that 95 of 100 texts fit, at most "
    "128]",
    TEXT, ge=SHORTEST_TEXT, le=4096,
)  # fmt: skip
VOCAB_SIZE = setting(
    None,
    "The most tokens of the vocabulary that is made from the training texts. [default: 8192; not "
    "for a base with a tokenizer of its own]",
    TEXT, ge=300, le=1_000_000,
)  # fmt: skip
TEXT_COLUMN = setting(
    None, "The column of the texts in a table. [default: found by its name]", TEXT
)
LABEL_COLUMN = setting(
    None, "The column of the labels in a table. [default: found by its name]", TEXT
)
