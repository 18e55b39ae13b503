"""`Family`, a kind of head with its builder, and `Parameter`, one architecture parameter of it."""

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
    """One architecture parameter of a family, such as its depth or kernel size.

    Attributes:
        kind: the type of its values; "choice" means one of `choices`.
        default: the value that is used when none is given.
        help: one line for listings.
        label: its part of a candidate's name, for example "k{}". The label of a "bool" has no
            braces; it appears when the value is not the default.
        always: whether the name contains the label when the value is the default, too.
        low, high: bounds of a number, both included.
        odd: whether a number must be odd.
        choices: the values of a "choice".
        largest_useful: function of a map's (H, W): the value above which the head does not change
            any more. A head is built with this value in place of a larger one.
        nearest: function of a value and the width of the map: the value that is built instead.
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
        """A description of the valid values, for example "an odd whole number from 1 to 31"."""
        if self.kind == "bool":
            return "true or false"
        if self.kind == "choice":
            return f"one of {', '.join(self.choices)}"
        article = "an odd" if self.odd else "a"
        number = "whole number" if self.kind == "int" else "number"
        return f"{article} {number} from {self.low:g} to {self.high:g}"

    def check(self, name: str, value: object) -> Value:
        """Returns `value` if it is valid; a "float" is rounded to four significant digits.

        Args:
            name: the name of the parameter, for the message.
            value: the value to check.

        Raises:
            UserError: the value is not as `expected` describes.
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
                # Names show four digits: a candidate can be built again from its name alone.
                return float(f"{value:.4g}") if self.kind == "float" else value
        raise UserError(f"{name} must be {self.expected()}, but is {value!r}")

    def on(self, dim: int, grid: Grid, value: Value) -> Value:
        """The value that is built in place of `value` on a map of this width and size.

        Values that make no difference on the map become one value, so that equal heads have equal
        parameters; see `largest_useful` and `nearest`.
        """
        if self.largest_useful is not None:
            assert isinstance(value, int)
            return min(value, self.largest_useful(grid))
        if self.nearest is not None:
            assert isinstance(value, int | float)
            return self.nearest(value, dim)
        return value

    def name_part(self, value: Value) -> str:
        """The part of a candidate's name for `value`; empty if the name does not show it."""
        if value == self.default and not self.always:
            return ""
        return self.label.format(f"{value:g}" if isinstance(value, float) else value)


@dataclass(frozen=True)
class Family:
    """A kind of head, defined by its inductive bias.

    Attributes:
        name: lower-case letters and digits; names of its candidates start with it.
        bias: its inductive bias in a few words.
        build: `build(dim, grid, **parameters)` with all parameters returns a module that maps
            (B, dim, H, W) to (B, dim, H, W) on the grid (H, W). The module has a deterministic
            forward and no final norm.
        parameters: its parameters by name, in the order of a candidate's name.
        control: whether it is a reference for comparison rather than a candidate to be found.
        norm: the norm of its blocks by default: "layer", "group" (over groups of channels) or
            "mixed" (several kinds); "" if they have none that could be replaced.
        multiplies: whether its blocks multiply features by features, or shrink them. Without any
            norm the signal of such a family explodes or vanishes within a few blocks.
        blocks: function of the parameters: the number of blocks; None in a family without the
            parameters of `shortcuts.py`.
        settle: function that changes checked parameters in place to those of an equal head, where
            some values make others ineffective; None if no parameter depends on another.
        one_length: function of the parameters: whether the head works on maps of one size alone,
            the one that it is built for. Others take sequences of any length, and their outputs
            do not depend on how much padding there is.
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
    one_length: Callable[[Mapping[str, Any]], bool] = lambda values: False

    def settled(self, dim: int, grid: Grid, parameters: Mapping[str, Value]) -> dict[str, Value]:
        """The canonical parameters of a head on a map: equal heads have equal parameters.

        Parameters that are not given get their defaults. Values too large for the map become the
        largest that make a difference on it. Values without effect, because of another parameter,
        become their defaults.

        Raises:
            UserError: a parameter is unknown, or a value is not valid.
        """
        causal = self.parameters.get("causal") is CAUSAL and bool(parameters.get("causal"))
        for name in parameters:
            if name not in self.parameters:
                raise unknown(f"parameter of {self.name}", name, self.parameters)
        values = {
            name: parameter.on(
                dim,
                grid,
                parameter.check(f"{self.name}.{name}", parameters.get(name, parameter.default)),
            )
            for name, parameter in self.parameters.items()
        }
        if causal and grid[0] > 1:
            raise UserError(
                f"{self.name}.causal is for sequences, which are maps of one row, but this map has "
                f"{grid[0]} rows: leave it out"
            )
        # A causal form has layer norms only; see `along_row`.
        if self.norm and values.get("norm") == ("layer" if causal else self.norm):
            values["norm"] = "own"  # asking for the norm that the blocks have changes nothing
        if self.blocks is not None and values.get("shortcuts") is False:
            # In a head of one block, removing all shortcuts is the same as removing the first one.
            # In others, removing all removes the first one, whatever `first_shortcut` says.
            single_block = self.blocks(values) == 1
            values.update(shortcuts=single_block, first_shortcut=not single_block)
        if self.settle is not None:
            self.settle(values, grid)
        return values

    def make(self, dim: int, grid: Grid, parameters: Mapping[str, Value]) -> nn.Module:
        """Builds a head with new weights for maps (B, dim, H, W); see `settled` for parameters."""
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
    # In a larger kernel the outer taps lie off the map wherever the kernel is centred.
    largest_useful=lambda grid: 2 * max(grid) - 1,
)
CAUSAL = Parameter(
    "bool",
    False,
    "whether an output depends on the tokens up to its own only; for sequences",
    "causal",
)
"""The parameter of families with a causal form. Only maps of one row can have it set."""


def always(values: Mapping[str, Any]) -> bool:
    """The `one_length` of families whose weights or windows belong to one size of map."""
    return True


def with_default(parameter: Parameter, default: Value) -> Parameter:
    """A copy of the parameter with another default."""
    return replace(parameter, default=default)
