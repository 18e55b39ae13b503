"""The search space: reads heads.yaml, resolves it on a base into candidates with their costs."""

from headsearch.models.space.candidate import BaseShape, Candidate, Listing
from headsearch.models.space.names import default_name, named_head, one_head, read_name, space_text
from headsearch.models.space.parameters import (
    ATTACH_AT,
    CONTROLS,
    OWN,
    PARAMETERS,
    parameters_of,
    without_later,
)
from headsearch.models.space.resolved import ENUMERABLE, ResolvedSpace
from headsearch.models.space.space import (
    Space,
    as_space,
    find_space,
    load_space,
    read_space,
    ready_spaces,
    recorded_space,
)

__all__ = [
    "ATTACH_AT",
    "CONTROLS",
    "ENUMERABLE",
    "OWN",
    "PARAMETERS",
    "BaseShape",
    "Candidate",
    "Listing",
    "ResolvedSpace",
    "Space",
    "as_space",
    "default_name",
    "find_space",
    "load_space",
    "named_head",
    "one_head",
    "parameters_of",
    "read_name",
    "read_space",
    "ready_spaces",
    "recorded_space",
    "space_text",
    "without_later",
]
