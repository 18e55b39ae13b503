"""Standard output and error as best-effort streams: no failure of theirs ends a command or a run.

A pipe may be closed, a disk full, a terminal gone, an encoding without the characters of a message.
Results are in the run directory, so output that cannot be written is dropped.
"""

from __future__ import annotations

import codecs
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, cast

MAY_RECOVER = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EAGAIN, errno.EINTR})
"""Errors after which later output is tried again. After any other error the stream is lost."""

PLAIN = {
    "×": "x", "·": "-", "–": "-", "—": "-", "−": "-", "…": "...", "±": "+/-", "→": "->", "≥": ">=",
    "≤": "<=", "█": "#", "━": "-", "╸": "-", "╺": "-", "─": "-", "│": "|", "╭": "+", "╮": "+",
    "╰": "+", "╯": "+",
}  # fmt: skip
"""What is written for characters of our own texts that the encoding of a stream lacks."""


def _in_plain_characters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN.get(character, "?") for character in lacking), error.end


codecs.register_error("headsearch.plain", _in_plain_characters)


class BestEffortStream:
    """A text stream that drops what it cannot write.

    Args:
        stream: the stream to write to; None for none. It needs no method but `write`.

    Attributes:
        lost: whether the stream is gone for good, so that nobody reads what is written.
    """

    def __init__(self, stream: object) -> None:
        self._stream: Any = stream
        self.lost = stream is None

    def write(self, text: str) -> int:
        """Writes a text, or drops it. Returns its length in either case."""
        if self.lost:
            return len(text)
        try:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self.encoding
                self._stream.write(text.encode(encoding, "headsearch.plain").decode(encoding))
        except Exception as error:  # the stream may be any object of the caller's
            self._note(error)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Writes texts one after the other."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flushes the stream if it can be flushed."""
        if self.lost or not hasattr(self._stream, "flush"):
            return
        try:
            self._stream.flush()
        except Exception as error:
            self._note(error)

    def isatty(self) -> bool:
        """Whether the stream is a terminal; False if it does not say."""
        try:
            return bool(self._stream.isatty())
        except Exception:
            return False

    def fileno(self) -> int:
        """The file descriptor.

        Raises:
            OSError: the stream has none.
        """
        number = getattr(self._stream, "fileno", None)
        if number is None:
            raise OSError("the stream has no file descriptor")
        return int(number())

    @property
    def encoding(self) -> str:
        """The encoding of the stream; ASCII if Python does not know it."""
        name = getattr(self._stream, "encoding", None) or "utf-8"
        try:
            return codecs.lookup(name).name
        except LookupError:
            return "ascii"

    def leave(self) -> None:
        """Flushes for the last time. What cannot be written must not fail again at Python's end."""
        try:
            self._stream.flush()
        except Exception:
            with suppress(Exception):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())

    def __getattr__(self, name: str) -> Any:
        if name == "_stream":  # before __init__, as in a copy
            raise AttributeError(name)
        return getattr(self._stream, name)

    def _note(self, error: Exception) -> None:
        self.lost = not (isinstance(error, OSError) and error.errno in MAY_RECOVER)


def best_effort(stream: object) -> IO[str]:
    """A best-effort stream that writes to this one."""
    stream = getattr(stream, "rich_proxied_file", stream)  # rich's stand-in during a live display
    return cast(
        IO[str], stream if isinstance(stream, BestEffortStream) else BestEffortStream(stream)
    )


def is_lost(stream: object) -> bool:
    """Whether a stream is known to be gone for good."""
    return isinstance(stream, BestEffortStream) and stream.lost


@contextmanager
def best_effort_output() -> Iterator[None]:
    """In this block, which ends with the process, `print` and libraries write with best effort."""
    before = sys.stdout, sys.stderr
    ours = BestEffortStream(sys.stdout), BestEffortStream(sys.stderr)
    sys.stdout, sys.stderr = cast("tuple[Any, Any]", ours)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in ours:
            stream.leave()
