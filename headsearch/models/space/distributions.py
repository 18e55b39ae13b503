"""How a family's parameters may vary: counted, listed, or drawn by Optuna."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from headsearch.models.heads import Value

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


@dataclass(frozen=True)
class Choices:
    """A few values, ascending. One value is a fixed one."""

    values: tuple[Value, ...]

    def count(self) -> int:
        return len(self.values)

    def points(self) -> Iterator[Value]:
        return iter(self.values)

    def suggest(self, trial: BaseTrial, name: str) -> Value:
        chosen = trial.suggest_categorical(name, self.values)
        assert chosen is not None
        return chosen

    def written(self) -> dict[str, Any]:
        return {"choices": list(self.values)}


@dataclass(frozen=True)
class Range:
    """All values from `low` to `high`, in steps where `step` is given; drawn on a log scale if so.

    `whole` is for integers, which always have a step.
    """

    low: float
    high: float
    step: float | None
    log: bool
    whole: bool

    def count(self) -> int | None:
        """How many values, None where they lie densely."""
        if self.step is None:
            return None
        return math.floor((self.high - self.low) / self.step + 1e-9) + 1

    def points(self) -> Iterator[Value]:
        count, step = self.count(), self.step or 0
        assert count is not None, "a dense range has no list of values"
        for index in range(count):
            yield self.low + index * step

    def suggest(self, trial: BaseTrial, name: str) -> Value:
        if self.whole:
            low, high, step = int(self.low), int(self.high), int(self.step or 1)
            return trial.suggest_int(name, low, high, step=step, log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def written(self) -> dict[str, Any]:
        written: dict[str, Any] = {"low": self.low, "high": self.high, "log": self.log}
        if self.step is not None and not self.log:
            written["step"] = self.step
        return written


@dataclass(frozen=True)
class Knob:
    """How one parameter varies: its values while `when` holds, `otherwise` while it does not.

    `when` gives for other parameters of the family the values, one of which each must have.
    """

    values: Choices | Range
    when: Mapping[str, tuple[Value, ...]]
    otherwise: Value

    def active(self, chosen: Mapping[str, Value]) -> bool:
        return all(chosen[name] in values for name, values in self.when.items())

    def first(self, chosen: Mapping[str, Value]) -> Value:
        """The least value that the knob can have after these choices."""
        if not self.active(chosen):
            return self.otherwise
        if isinstance(self.values, Choices):
            return self.values.values[0]
        return int(self.values.low) if self.values.whole else self.values.low

    def most(self) -> Value:
        """The largest value that the knob can have at all."""
        if isinstance(self.values, Choices):
            return max(*self.values.values, self.otherwise)
        return max(self.values.high, self.otherwise)

    def fixed(self, chosen: Mapping[str, Value]) -> Value | None:
        """The only value that the knob can have after these choices; None where it has several."""
        if not self.active(chosen):
            return self.otherwise
        if isinstance(self.values, Choices) and len(self.values.values) == 1:
            return self.values.values[0]
        return None

    def written(self) -> Any:
        """The knob as YAML would hold it, nothing left to defaults."""
        if self.when:
            when = {name: list(values) for name, values in sorted(self.when.items())}
            return {**self.values.written(), "when": when, "otherwise": self.otherwise}
        if isinstance(self.values, Choices) and len(self.values.values) == 1:
            return self.values.values[0]
        return self.values.written()


Knobs: TypeAlias = Mapping[str, Knob]  # every parameter of a family, each after those it depends on


def count_points(knobs: Knobs, chosen: Mapping[str, Value] | None = None) -> int | None:
    """How many combinations there are, None where a range is dense."""
    chosen = chosen or {}
    name = next((name for name in knobs if name not in chosen), None)
    if name is None:
        return 1
    knob = knobs[name]
    fixed = knob.fixed(chosen)
    if fixed is not None:
        return count_points(knobs, {**chosen, name: fixed})
    count = knob.values.count()
    if count is None:
        return None
    if any(name in other.when for other in knobs.values()):
        total = 0
        for value in knob.values.points():
            rest = count_points(knobs, {**chosen, name: value})
            if rest is None:
                return None
            total += rest
        return total
    rest = count_points(knobs, {**chosen, name: next(knob.values.points())})
    return None if rest is None else count * rest


def all_points(
    knobs: Knobs,
    chosen: Mapping[str, Value] | None = None,
    drawn: Mapping[str, Value] | None = None,
) -> Iterator[tuple[Mapping[str, Value], Mapping[str, Value]]]:
    """All combinations: every parameter's value, and those among them that were a choice."""
    chosen, drawn = chosen or {}, drawn or {}
    name = next((name for name in knobs if name not in chosen), None)
    if name is None:
        yield chosen, drawn
        return
    fixed = knobs[name].fixed(chosen)
    if fixed is not None:
        yield from all_points(knobs, {**chosen, name: fixed}, drawn)
        return
    for value in knobs[name].values.points():
        yield from all_points(knobs, {**chosen, name: value}, {**drawn, name: value})
