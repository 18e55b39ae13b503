"""The search space: heads.yaml, checked and resolved on a base into candidates with their cost."""

from headsearch.models.space.candidate import BaseShape, Candidate, Listing
from headsearch.models.space.parameters import ATTACH_AT, CONTROLS, KNOBS, OWN, knobs_of
from headsearch.models.space.resolved import ENUMERABLE, ResolvedSpace
from headsearch.models.space.space import (
    Space,
    as_space,
    find_space,
    load_space,
    read_space,
    ready_spaces,
)

__all__ = [
    "ATTACH_AT",
    "CONTROLS",
    "ENUMERABLE",
    "KNOBS",
    "OWN",
    "BaseShape",
    "Candidate",
    "Listing",
    "ResolvedSpace",
    "Space",
    "as_space",
    "find_space",
    "knobs_of",
    "load_space",
    "read_space",
    "ready_spaces",
]
