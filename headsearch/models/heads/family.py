"""What a family of heads is: how to build one, and which knobs it has."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from torch import nn

from headsearch.errors import UserError, unknown

Value: TypeAlias = bool | int | float | str
Grid: TypeAlias = tuple[int, int]  # rows, columns of the token map


@dataclass(frozen=True)
class Parameter:
    """One knob of a family.

    Attributes:
        kind: what its values are; "choice" means one of `choices`.
        default: its value where nothing is said.
        help: one line for listings.
        label: how it shows in a candidate's name, "k{}" say; a switch has no braces and shows
            its label where it is off its default.
        always: whether the name shows it at its default, too.
        low, high: permitted bounds of a number, both included.
        odd: whether only odd numbers are permitted.
        choices: permitted values of a "choice".
        largest_useful: of a map (H, W), the value above which nothing changes any more; a head is
            built with that value instead.
        nearest: of a value and the map's width, the value that is built in its stead.
    """

    kind: Literal["int", "float", "bool", "choice"]
    default: Value
    help: str
    label: str
    always: bool = False
    low: float = -math.inf
    high: float = math.inf
    odd: bool = False
    choices: tuple[str, ...] = ()
    largest_useful: Callable[[Grid], int] | None = None
    nearest: Callable[[float, int], float] | None = None

    def expected(self) -> str:
        """What a value must be, in words: "an odd whole number from 1 to 31"."""
        if self.kind == "bool":
            return "true or false"
        if self.kind == "choice":
            return f"one of {', '.join(self.choices)}"
        article = "an odd" if self.odd else "a"
        number = "whole number" if self.kind == "int" else "number"
        return f"{article} {number} from {self.low:g} to {self.high:g}"

    def check(self, name: str, value: object) -> Value:
        """`value` in the type of this parameter; a fraction to four significant digits.

        Raises:
            UserError: where it is not what `expected` says; `name` begins the message.
        """
        if self.kind == "bool":
            if isinstance(value, bool):
                return value
        elif self.kind == "choice":
            if isinstance(value, str) and value in self.choices:
                return value
        elif isinstance(value, int | float) and not isinstance(value, bool):
            whole = self.kind == "float" or isinstance(value, int)
            odd = not self.odd or value % 2 == 1
            if whole and odd and self.low <= value <= self.high:
                # Rounded, so that a sampled value can be read in a name and typed in again.
                return float(f"{value:.4g}") if self.kind == "float" else value
        raise UserError(f"{name} must be {self.expected()}, but is {value!r}")

    def on(self, dim: int, grid: Grid, value: Value) -> Value:
        """`value`, or the one that is built in its stead on a map of this width and size."""
        if self.largest_useful is not None:
            assert isinstance(value, int)
            return min(value, self.largest_useful(grid))
        if self.nearest is not None:
            assert isinstance(value, int | float)
            return self.nearest(value, dim)
        return value

    def name_part(self, value: Value) -> str:
        """How `value` shows in a candidate's name; empty where it does not show."""
        if value == self.default and not self.always:
            return ""
        return self.label.format(f"{value:g}" if isinstance(value, float) else value)


@dataclass(frozen=True)
class Family:
    """A kind of head.

    Attributes:
        name: letters and digits, lower case; begins the names of its candidates.
        bias: its inductive bias in a few words.
        build: `build(dim, grid, **parameters)`, every parameter given, gives a module that maps
            (B, dim, H, W) to (B, dim, H, W) on that grid (H, W), without randomness in its
            forward and without a final norm.
        parameters: its knobs, in the order in which a candidate's name shows them.
        control: whether it is there to compare with rather than to be found.
        norm: how its blocks normalise by themselves: over a "layer", a "group" of channels, or
            "mixed"; "" where they do not, and nothing can take the place of that.
        multiplies: whether its blocks multiply features with features, or shrink them, so that
            without any norm a few of them blow a signal up or let it vanish.
        blocks: how many blocks a head of these parameters has; None in a family whose `shortcuts`,
            if it has them, are not those of `shortcuts.py`.
        settle: changes checked parameters to those of an equal head where some have no effect, or
            None where none depends on another.
    """

    name: str
    bias: str
    build: Callable[..., nn.Module]
    parameters: Mapping[str, Parameter]
    control: bool = False
    norm: str = "layer"
    multiplies: bool = False
    blocks: Callable[[Mapping[str, Any]], int] | None = lambda values: int(values["depth"])
    settle: Callable[[dict[str, Any], Grid], None] | None = None

    def settled(self, dim: int, grid: Grid, parameters: Mapping[str, Value]) -> dict[str, Value]:
        """All parameters of the head that these make on such a map: the same for equal heads.

        Those not given take their defaults. Values too large for the map become the largest that
        make a difference there, and values that another one leaves without effect their defaults.

        Raises:
            UserError: for an unknown parameter, or a value outside its bounds.
        """
        for name in parameters:
            if name not in self.parameters:
                raise unknown(f"parameter of {self.name}", name, self.parameters)
        values = {
            name: knob.on(
                dim, grid, knob.check(f"{self.name}.{name}", parameters.get(name, knob.default))
            )
            for name, knob in self.parameters.items()
        }
        if self.norm and values.get("norm") == self.norm:
            values["norm"] = "own"
        if self.blocks is not None and values.get("shortcuts") is False:
            # All of one block's is the first's; where all go, the first's goes either way.
            alone = self.blocks(values) == 1
            values.update(shortcuts=alone, first_shortcut=not alone)
        if self.settle is not None:
            self.settle(values, grid)
        return values

    def make(self, dim: int, grid: Grid, parameters: Mapping[str, Value]) -> nn.Module:
        """A head with fresh weights on maps (B, dim, H, W); see `settled` for its parameters."""
        return self.build(dim, grid, **self.settled(dim, grid, parameters))


DEPTH = Parameter("int", 3, "number of blocks", "d{}", always=True, low=1, high=24)
MLP_RATIO = Parameter(
    "float", 4.0, "hidden width of the channel MLP over the width", "m{}", low=0.25, high=8
)
KERNEL = Parameter(
    "int",
    7,
    "side of the convolution's kernel, in tokens",
    "k{}",
    always=True,
    low=1,
    high=31,
    odd=True,
    # Beyond it, an outer tap lies off the map wherever the kernel is centred.
    largest_useful=lambda grid: 2 * max(grid) - 1,
)


def with_default(parameter: Parameter, default: Value) -> Parameter:
    """The same knob with another default."""
    return replace(parameter, default=default)
