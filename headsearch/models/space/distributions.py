"""Distributions of a family's parameters: counted, enumerated, or sampled by an Optuna trial.

`Choices` and `Range` are sets of values, which become Optuna's categorical, integer and float
distributions. A `Distribution` is such a set with an optional condition on other parameters.
"""

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
    """A list of values in ascending order. A single value means a fixed parameter."""

    values: tuple[Value, ...]

    def count(self) -> int:
        """The number of values."""
        return len(self.values)

    def points(self) -> Iterator[Value]:
        """The values in ascending order."""
        return iter(self.values)

    def suggest(self, trial: BaseTrial, name: str) -> Value:
        """The value that the trial suggests."""
        chosen = trial.suggest_categorical(name, self.values)
        assert chosen is not None
        return chosen

    def written(self) -> dict[str, Any]:
        """The form in YAML."""
        return {"choices": list(self.values)}


@dataclass(frozen=True)
class Range:
    """The values from `low` to `high`, both included.

    Attributes:
        low, high: the bounds.
        step: the distance between values; None for a dense range. Integers always have a step.
        log: whether values are sampled on a logarithmic scale.
        whole: whether values are integers.
    """

    low: float
    high: float
    step: float | None
    log: bool
    whole: bool

    def count(self) -> int | None:
        """The number of values; None for a dense range."""
        if self.step is None:
            return None
        # The tolerance keeps the last value where the division rounds down, as for 0.3 / 0.1.
        return math.floor((self.high - self.low) / self.step + 1e-9) + 1

    def points(self) -> Iterator[Value]:
        """The values in ascending order; the range must not be dense."""
        count, step = self.count(), self.step or 0
        assert count is not None, "a dense range has no list of values"
        for index in range(count):
            yield self.low + index * step

    def suggest(self, trial: BaseTrial, name: str) -> Value:
        """The value that the trial suggests."""
        if self.whole:
            low, high, step = int(self.low), int(self.high), int(self.step or 1)
            return trial.suggest_int(name, low, high, step=step, log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def written(self) -> dict[str, Any]:
        """The form in YAML."""
        written: dict[str, Any] = {"low": self.low, "high": self.high, "log": self.log}
        if self.step is not None and not self.log:
            written["step"] = self.step
        return written


@dataclass(frozen=True)
class Distribution:
    """How one parameter varies: over `values` if the condition `when` holds, else `otherwise`.

    Attributes:
        values: the set of values.
        when: other parameters of the family, each with the values of which it must have one; an
            empty condition always holds.
        otherwise: the value where the condition does not hold.
    """

    values: Choices | Range
    when: Mapping[str, tuple[Value, ...]]
    otherwise: Value

    def active(self, chosen: Mapping[str, Value]) -> bool:
        """Whether the condition holds for the values chosen for other parameters."""
        return all(chosen[name] in values for name, values in self.when.items())

    def first(self, chosen: Mapping[str, Value]) -> Value:
        """The least value, given the values chosen for other parameters."""
        if not self.active(chosen):
            return self.otherwise
        if isinstance(self.values, Choices):
            return self.values.values[0]
        return int(self.values.low) if self.values.whole else self.values.low

    def most(self) -> Value:
        """The largest value, whether the condition holds or not."""
        if isinstance(self.values, Choices):
            return max(*self.values.values, self.otherwise)
        return max(self.values.high, self.otherwise)

    def fixed(self, chosen: Mapping[str, Value]) -> Value | None:
        """The only possible value, given the values chosen for others; None if it has several."""
        if not self.active(chosen):
            return self.otherwise
        if isinstance(self.values, Choices) and len(self.values.values) == 1:
            return self.values.values[0]
        return None

    def written(self) -> Any:
        """The form in YAML, with all defaults spelled out."""
        if self.when:
            when = {name: list(values) for name, values in sorted(self.when.items())}
            return {**self.values.written(), "when": when, "otherwise": self.otherwise}
        if isinstance(self.values, Choices) and len(self.values.values) == 1:
            return self.values.values[0]
        return self.values.written()


Distributions: TypeAlias = Mapping[str, Distribution]
"""The distributions of all parameters of a family; each comes after those its condition names."""


def count_points(
    distributions: Distributions, chosen: Mapping[str, Value] | None = None
) -> int | None:
    """The number of combinations of values; None if a range is dense.

    Args:
        distributions: those of one family.
        chosen: parameters that have a value already.
    """
    chosen = chosen or {}
    name = next((name for name in distributions if name not in chosen), None)
    if name is None:
        return 1
    distribution = distributions[name]
    fixed = distribution.fixed(chosen)
    if fixed is not None:
        return count_points(distributions, {**chosen, name: fixed})
    count = distribution.values.count()
    if count is None:
        return None
    if any(name in other.when for other in distributions.values()):
        # Conditions of others depend on this value, so each value is counted by itself.
        total = 0
        for value in distribution.values.points():
            rest = count_points(distributions, {**chosen, name: value})
            if rest is None:
                return None
            total += rest
        return total
    # Nothing depends on this value: any one of them gives the count of the remaining parameters.
    rest = count_points(distributions, {**chosen, name: next(distribution.values.points())})
    return None if rest is None else count * rest


def all_points(
    distributions: Distributions,
    chosen: Mapping[str, Value] | None = None,
    drawn: Mapping[str, Value] | None = None,
) -> Iterator[tuple[Mapping[str, Value], Mapping[str, Value]]]:
    """Yields all combinations as pairs (values of all parameters, values that were not fixed).

    Args:
        distributions: those of one family.
        chosen: parameters that have a value already.
        drawn: those of `chosen` that had several possible values: what an Optuna trial samples.
    """
    chosen, drawn = chosen or {}, drawn or {}
    name = next((name for name in distributions if name not in chosen), None)
    if name is None:
        yield chosen, drawn
        return
    fixed = distributions[name].fixed(chosen)
    if fixed is not None:
        yield from all_points(distributions, {**chosen, name: fixed}, drawn)
        return
    for value in distributions[name].values.points():
        yield from all_points(distributions, {**chosen, name: value}, {**drawn, name: value})
