"""`Share`: the part of a set that this process decodes on behalf of all processes of its job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


def _only_its_own(value: Any) -> list[Any]:
    return [value]


def _complete_already(rows: Tensor) -> None:
    """A single process has decoded all rows."""


@dataclass(frozen=True)
class Share:
    """The part of a set that this process decodes on behalf of all processes of its job.

    The default is that of a single process: all of it.

    Attributes:
        rank: the number of this process.
        count: the number of processes.
        gather: gives the values of all processes, in the order of ranks.
        fill: fills a tensor (count · r, …) of which each process has decoded r consecutive rows,
            in the order of ranks, with the rows of the others.
    """

    rank: int = 0
    count: int = 1
    gather: Callable[[Any], list[Any]] = _only_its_own
    fill: Callable[[Tensor], None] = _complete_already

    def rows(self, total: int) -> int:
        """The number r of rows of each process, for a set of this size."""
        return -(-total // self.count)

    def part(self, total: int) -> range:
        """The positions in a set of this size that this process decodes."""
        rows = self.rows(total)
        return range(min(self.rank * rows, total), min((self.rank + 1) * rows, total))


ALONE = Share()
"""The share of a process that decodes everything that it needs."""
