"""`FileKind`: which files the data sets of a domain consist of, and what they are called."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from headsearch.data.image.suffixes import SUFFIXES
from headsearch.text import with_article


@dataclass(frozen=True)
class FileKind:
    """The files that are the samples of a data set.

    Attributes:
        noun: what one of them is called.
        suffixes: those of their names, in lower case.
    """

    noun: str
    suffixes: tuple[str, ...]

    @property
    def nouns(self) -> str:
        return f"{self.noun}s"

    @property
    def a_noun(self) -> str:
        return with_article(self.noun)

    def includes(self, file: str) -> bool:
        """Whether a file of this name is one of them."""
        return posixpath.splitext(file)[1].lower() in self.suffixes


IMAGES = FileKind("image", SUFFIXES)
CLIPS = FileKind("clip", (".wav", ".flac", ".ogg"))
TEXTS = FileKind("text", (".txt",))
