"""What can vary of a head in a search space: the parameters of families and of controls."""

from __future__ import annotations

from collections.abc import Mapping

from headsearch.models.heads import DEPTH, FAMILIES, Family, Parameter

OWN = "own"
"""The control that is the base's own kind of block; which family that is, the base says."""


CONTROLS: dict[str, Mapping[str, Parameter]] = {
    **{name: family.parameters for name, family in FAMILIES.items() if family.control},
    OWN: {"depth": DEPTH},
}


ATTACH_AT = Parameter(
    "int",
    0,
    "how many blocks before the base's last the head is attached (stages, in a base of stages)",
    "before{}",
    low=0,
    high=63,
)
"""The knob of every family but the controls that says where its head meets the base."""


def knobs_of(family: Family) -> Mapping[str, Parameter]:
    """All that can vary of a family in a space: how its head is built, and where it is attached."""
    return {**family.parameters, "attach_at": ATTACH_AT}


KNOBS: Mapping[str, Mapping[str, Parameter]] = {
    **{name: knobs_of(family) for name, family in FAMILIES.items()},
    **CONTROLS,
}
