"""The parameters of all families and controls in a search space, with `attach_at` among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headsearch.models.heads import CAUSAL, DEPTH, FAMILIES, Family, Parameter, Value

OWN = "own"
"""The name of the control head built from the base's own kind of block.

Its family is that of the base (`BaseShape.own_family`).
"""


CONTROLS: dict[str, Mapping[str, Parameter]] = {
    **{name: family.parameters for name, family in FAMILIES.items() if family.control},
    OWN: {"depth": DEPTH, "causal": CAUSAL},
}
"""The parameters of each control by name."""

ATTACH_AT = Parameter(
    "int",
    0,
    "how many blocks before the base's last the head is attached (stages, in a base with stages)",
    "before{}",
    low=0,
    high=63,
)
"""The parameter of all families except controls that says to which map a head is attached."""


def parameters_of(family: Family) -> Mapping[str, Parameter]:
    """All parameters of a family in a search space: those of its heads, and `attach_at`."""
    return {**family.parameters, "attach_at": ATTACH_AT}


PARAMETERS: Mapping[str, Mapping[str, Parameter]] = {
    **{name: parameters_of(family) for name, family in FAMILIES.items()},
    **CONTROLS,
}

LATER: Mapping[str, Value] = {"causal": CAUSAL.default}
"""Parameters of built-in families that older versions lack, with the value that heads had."""


def without_later(written: Mapping[str, Any]) -> dict[str, Any]:
    """The written parameters of a built-in family, without those in `LATER` at their old value.

    The space and the head of an older run, and the hash of its space, are thus still the same.
    """
    return {
        name: value for name, value in written.items() if name not in LATER or value != LATER[name]
    }
