"""Files that a run's images do without: counted, listed in the run directory, never too many."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from headsearch.errors import UserError
from headsearch.text import printable

LISTED_IN = "left_out.txt"
MOST_BAD = 0.05
"""The share of images that may be bad before the data as a whole is in doubt, by default."""
NAMED = 3
"""How many bad files a message names before it only counts them."""


class TooManyBadError(UserError):
    """More images are bad than a run may do without.

    Attributes:
        left_out: these, and all else that was left out until then.
    """

    def __init__(self, message: str, left_out: LeftOut) -> None:
        super().__init__(message)
        self.left_out = left_out


class LeftOut:
    """What is left out of a run's images, and why, in the order in which it was found.

    Args:
        most_bad: the share of a set's images that may be bad.

    Attributes:
        sets: the sets that were decoded: of which source, its bad files, and its images in all.
    """

    def __init__(self, most_bad: float = MOST_BAD) -> None:
        self.most_bad = most_bad
        self.sets: list[tuple[str, Sequence[str], int]] = []
        self._reasons: dict[tuple[str, str], str] = {}
        self._file: Path | None = None
        self._one_at_a_time = threading.Lock()

    @property
    def lines(self) -> list[str]:
        """A line a file: the data it belongs to, its name, and why it is left out."""
        return [_line(*found) for found in self._reasons.items()]

    def add(self, source: str, file: str, reason: str) -> None:
        """Notes a file of a source; one that is noted already keeps its reason."""
        with self._one_at_a_time:
            if (source, file) in self._reasons:
                return
            self._reasons[source, file] = reason
            if self._file is not None:
                # A disk that is full is told of by what cannot do without it.
                with suppress(OSError), self._file.open("a", encoding="utf-8") as listing:
                    listing.write(_line((source, file), reason) + "\n")

    def list_in(self, run_directory: Path) -> None:
        """Lists them in a file of the run directory, those too that will be found from now on.

        What an earlier process listed there is replaced; where nothing is left out, nothing is.

        Raises:
            UserError: it cannot be written.
        """
        with self._one_at_a_time:
            self._file = run_directory / LISTED_IN
            try:
                if self._reasons:
                    text = "".join(f"{line}\n" for line in self.lines)
                    self._file.write_text(text, encoding="utf-8")
                else:
                    self._file.unlink(missing_ok=True)
            except OSError as error:
                raise UserError(f"{self._file}: cannot write: {error.strerror}") from None

    def check(self) -> None:
        """Raises TooManyBadError where too many images of a set are bad; all sets are decoded."""
        for source, bad, count in self.sets:
            self.check_set(source, bad, count)

    def check_set(self, source: str, bad: Sequence[str], count: int) -> None:
        """Raises TooManyBadError where of a set's `count` images too many are bad: those named."""
        if len(bad) <= self.most_bad * count and (not bad or len(bad) < count):
            return
        where = f"; {self._file} lists them" if self._file is not None else ""
        raise TooManyBadError(
            f"{source}: {len(bad)} of {count} images cannot be read ({named(bad)}), more than "
            f"--max-bad-images {self.most_bad:g} allows: mend or remove them{where}",
            self,
        )


@contextmanager
def listed_where_too_many(run_directory: Path) -> Iterator[None]:
    """Too many bad images within the block are listed in the run directory, to be mended."""
    try:
        yield
    except TooManyBadError as error:
        error.left_out.list_in(run_directory)
        raise UserError(
            f"{error}, then headsearch resume {run_directory}; {run_directory / LISTED_IN} lists "
            "them all"
        ) from None


def named(files: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(files[:NAMED]) + (", …" if len(files) > NAMED else "")


def _line(file: tuple[str, str], reason: str) -> str:
    source, name = file
    return printable(f"{source}: {name}: {reason}")
