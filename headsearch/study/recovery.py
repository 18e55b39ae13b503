"""How a search goes on after its base diverged or a cohort did not fit into memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from headsearch.study.leaderboard import Entry
from headsearch.study.proposals import cohort_sizes


def _shared_out(heads: Sequence[Entry], parts: int) -> list[Sequence[Entry]]:
    """Heads in so many even parts, in the order they came: controls first."""
    sizes = cohort_sizes(len(heads), max(1, math.ceil(len(heads) / parts)))
    ends = list(accumulate(sizes))
    return [heads[end - size : end] for end, size in zip(ends, sizes, strict=True)]
