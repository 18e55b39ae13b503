"""Files that are left out of a run's images: counted, limited, and listed in the run directory."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from headsearch.errors import UserError
from headsearch.text import counted, printable

LISTED_IN = "left_out.txt"
"""The file of the run directory that lists them."""
MAX_BAD_IMAGES = 0.05
"""The default for the largest fraction of bad images in a set."""
NAMED = 3
"""How many bad files a message names."""


class TooManyBadError(UserError):
    """A larger fraction of the images is bad than `--max-bad-images` allows.

    Attributes:
        left_out: all files that were left out until then.
    """

    def __init__(self, message: str, left_out: LeftOut) -> None:
        super().__init__(message)
        self.left_out = left_out


class LeftOut:
    """The files left out of a run's images, with reasons, in the order in which they were found.

    It may be used from several threads.

    Args:
        max_bad_images: the largest fraction of a set's images that may be bad.
        noun: what one of them is called.

    Attributes:
        sets: for each set that was decoded: the name of its source, the names of its bad files, and
            the number of its images, bad ones included.
    """

    def __init__(self, max_bad_images: float = MAX_BAD_IMAGES, noun: str = "image") -> None:
        self.max_bad_images, self._noun = max_bad_images, noun
        self.sets: list[tuple[str, Sequence[str], int]] = []
        self._reasons: dict[tuple[str, str], str] = {}
        self._file: Path | None = None
        self._one_at_a_time = threading.Lock()

    @property
    def lines(self) -> list[str]:
        """One line per file: the name of its source, its own name, and the reason."""
        return [_line(file, reason) for file, reason in self._reasons.items()]

    def add(self, source: str, file: str, reason: str) -> None:
        """Adds a file of a source; one that was added before keeps its reason."""
        with self._one_at_a_time:
            if (source, file) in self._reasons:
                return
            self._reasons[source, file] = reason
            if self._file is not None:
                # Errors such as a full disk are ignored here: the run can go on without this list,
                # and whatever it cannot go on without reports them.
                with suppress(OSError), self._file.open("a", encoding="utf-8") as listing:
                    listing.write(_line((source, file), reason) + "\n")

    def list_in(self, run_directory: Path) -> None:
        """Writes the list to a file of the run directory; files added later are appended to it.

        The list of an earlier process is replaced, or removed if nothing is left out.

        Raises:
            UserError: the file cannot be written.
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
        """Raises TooManyBadError if too many images of a set are bad.

        It is called after all sets are decoded, so that the list contains the bad files of each.
        """
        for source, bad, count in self.sets:
            self.check_set(source, bad, count)

    def check_set(self, source: str, bad: Sequence[str], count: int) -> None:
        """Raises TooManyBadError if too many of a set's images are bad, or all of them.

        Args:
            source: the name of the source.
            bad: the names of the bad files.
            count: the number of images, bad ones included.
        """
        if len(bad) <= self.max_bad_images * count and (not bad or len(bad) < count):
            return
        where = f"; {self._file} lists them" if self._file is not None else ""
        raise TooManyBadError(
            f"{source}: {len(bad)} of {counted(count, self._noun)} cannot be read ({named(bad)}), "
            f"more than --max-bad-images {self.max_bad_images:g} allows: "
            f"mend or remove them{where}",
            self,
        )


@contextmanager
def listed_where_too_many(run_directory: Path) -> Iterator[None]:
    """If a TooManyBadError is raised in this context, lists the files in the run directory.

    The error that is raised in its place says how to go on once they are repaired.
    """
    try:
        yield
    except TooManyBadError as error:
        error.left_out.list_in(run_directory)
        raise UserError(
            f"{error}, then headsearch resume {run_directory}; {run_directory / LISTED_IN} lists "
            "them all"
        ) from None


def named(files: Sequence[str]) -> str:
    """The first few names of files, for a message."""
    return ", ".join(files[:NAMED]) + (", …" if len(files) > NAMED else "")


def _line(file: tuple[str, str], reason: str) -> str:
    source, name = file
    return printable(f"{source}: {name}: {reason}")
