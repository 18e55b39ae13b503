"""What a family of heads is: how to build one, and which knobs it has."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from torch import nn

from headsearch.errors import UserError

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

    def on(self, grid: Grid, value: Value) -> Value:
        """`value`, or the largest one of the same effect on a map of this size."""
        if self.largest_useful is None:
            return value
        assert isinstance(value, int)
        return min(value, self.largest_useful(grid))

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
    """

    name: str
    bias: str
    build: Callable[..., nn.Module]
    parameters: Mapping[str, Parameter]
    control: bool = False


DEPTH = Parameter("int", 3, "number of blocks", "d{}", always=True, low=1, high=24)
FIRST_SHORTCUT = Parameter(
    "bool",
    True,
    "whether the first block adds to its input; without, the base's tokens reach the head's output "
    "only through token mixing",
    "noshortcut",
)
"""Without its shortcut the first block puts the result of token mixing in place of its input.

In a block of one residual, x + f(x), that leaves f(x). A block of two residuals mixes tokens and
then channels, y = x + mix(x) and y + mlp(y); it loses the first alone: y = mix(x), then y + mlp(y).
Either way no path without mixing leads from the base's tokens to the head's output, which is what
the ablation of HSSL (arXiv 2310.05108) is about; the second residual carries nothing of the input
that has not been mixed, and keeping it keeps the block trainable.
"""
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
