"""Reads families and the distributions of their parameters from YAML; errors name the line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter

from headsearch.config.yaml_file import Located
from headsearch.errors import UserError, unknown
from headsearch.models.heads import Parameter, Value
from headsearch.models.space.distributions import Choices, Distribution, Distributions, Range

MOST_CHOICES = 1000
"""The most values in a list of choices, or in a range that a condition depends on."""


def read_families(
    node: Located | None,
    kind: str,
    known: Mapping[str, Mapping[str, Parameter]],
    misplaced: Mapping[str, str],
) -> dict[str, Distributions]:
    """Reads families, or controls, with their distributions.

    The result is in alphabetical order, so that the order in the file has no effect.

    Args:
        node: a mapping from names to parameters, a list of names, or None.
        kind: "family" or "control", for messages.
        known: the parameters of each known family by name.
        misplaced: messages for names that belong elsewhere in the file.

    Raises:
        UserError: with the line, if a name is unknown or appears twice, or as `read_distributions`.
    """
    families: dict[str, Distributions] = {}
    for name, where, value in listed(node):
        if name in misplaced:
            raise UserError(f"{where}: {misplaced[name]}")
        if name not in known:
            raise UserError(f"{where}: {unknown(kind, name, known)}")
        if name in families:
            raise UserError(f"{where}: {kind} {name!r} is there twice; delete one of them")
        families[name] = read_distributions(value, name, known[name])
    return {name: families[name] for name in sorted(families)}


def listed(node: Located | None) -> Iterator[tuple[str, str, Located]]:
    """Yields (name, file and line, entry) for a mapping, a list of names, or a mix of both."""
    if node is None or node.value is None:
        return
    if isinstance(node.value, list):
        for item in node.value:
            if isinstance(item.value, str):
                yield item.value, item.where, Located(None, item.where, {})
            else:
                for name, value in item.mapping("an item of the list").items():
                    yield name, item.keys[name], value
    else:
        for name, value in node.mapping("a list of families").items():
            yield name, node.keys.get(name, node.where), value


def read_distributions(
    node: Located, family: str, parameters: Mapping[str, Parameter]
) -> Distributions:
    """Reads the distributions of one family; parameters not in the mapping have their defaults.

    Args:
        node: a mapping from parameters to a value, a list of choices, or a mapping with the keys
            `choices`, or `low` and `high` (`step`, `log`), and `when` and `otherwise`.
        family: the name of the family, for messages.
        parameters: the parameters of the family.

    Raises:
        UserError: with the line, if a name is unknown, a value is out of bounds, or a condition
            can never hold or depends on itself.
    """
    entries = node.mapping(family) if node.value is not None else {}
    for name in entries:
        if name not in parameters:
            raise node.key_error(name, unknown(f"parameter of {family}", name, parameters))
    whens: dict[str, Located] = {}
    distributions: dict[str, Distribution] = {}
    for name, parameter in parameters.items():
        if name in entries:
            distributions[name] = _read_distribution(entries[name], f"{family}.{name}", parameter)
            if isinstance(entries[name].value, dict) and "when" in entries[name].mapping(name):
                whens[name] = entries[name].mapping(name)["when"]
        else:
            distributions[name] = Distribution(Choices((parameter.default,)), {}, parameter.default)
    # Conditions come last: they are checked against the values that other parameters can have.
    for name, when in whens.items():
        conditions = _read_when(when, family, name, parameters, distributions)
        distributions[name] = replace(distributions[name], when=conditions)
    try:
        order = TopologicalSorter(
            {name: entry.when.keys() for name, entry in distributions.items()}
        )
        return {name: distributions[name] for name in order.static_order()}
    except CycleError as error:
        cycle = " → ".join(error.args[1])
        raise node.error(f"conditions of {family} depend on one another: {cycle}") from error


def _check(node: Located, name: str, parameter: Parameter) -> Value:
    """The value of a node if it is valid for the parameter; else UserError with the line."""
    if node.value is None or isinstance(node.value, list | dict):
        raise node.error(f"{name} must be {parameter.expected()}, but is {node.shown()}")
    try:
        return parameter.check(name, node.value)
    except UserError as error:
        raise node.error(error) from error


def _read_distribution(node: Located, name: str, parameter: Parameter) -> Distribution:
    """Reads the distribution of one parameter without its condition; see `_read_when`."""
    if isinstance(node.value, list):
        return Distribution(_read_choices(node, name, parameter), {}, parameter.default)
    if not isinstance(node.value, dict):
        return Distribution(Choices((_check(node, name, parameter),)), {}, parameter.default)
    entries = node.mapping(name, ("choices", "low", "high", "step", "log", "when", "otherwise"))
    values: Choices | Range
    if "choices" in entries:
        for key in ("low", "high", "step", "log"):
            if key in entries:
                raise node.key_error(
                    key, f"{name} has choices; {key} belongs to a range: delete one"
                )
        values = _read_choices(entries["choices"], name, parameter)
    elif "low" in entries and "high" in entries:
        values = _read_range(node, entries, name, parameter)
    else:
        raise node.error(f"{name} needs either choices, or low and high")
    otherwise = parameter.default
    if "otherwise" in entries:
        if "when" not in entries:
            raise node.key_error("otherwise", f"{name} has no `when` that `otherwise` belongs to")
        otherwise = _check(entries["otherwise"], name, parameter)
    return Distribution(values, {}, otherwise)


def _read_choices(node: Located, name: str, parameter: Parameter) -> Choices:
    items = node.items(f"the choices of {name}")
    if not items:
        raise node.error(f"{name} has no choices")
    if len(items) > MOST_CHOICES:
        raise node.error(f"{name} has {len(items)} choices; give a range (low, high) instead")
    values: list[Value] = []
    for item in items:
        value = _check(item, name, parameter)
        if value in values:
            raise item.error(f"{name} has the choice {item.shown()} twice")
        values.append(value)
    return Choices(tuple(sorted(values)))


def _read_range(
    node: Located, entries: Mapping[str, Located], name: str, parameter: Parameter
) -> Range:
    if parameter.kind not in ("int", "float"):
        raise node.error(f"{name} is {parameter.expected()}: give choices, not a range")
    whole = parameter.kind == "int"
    low, high = (_check(entries[key], name, parameter) for key in ("low", "high"))
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    if not low < high:
        raise node.error(f"{name} needs low < high, but has {low:g} and {high:g}")
    log_node = entries.get("log")
    if log_node is not None and not isinstance(log_node.value, bool):
        raise log_node.error(f"log must be true or false, but is {log_node.shown()}")
    log = log_node is not None and bool(log_node.value)
    if log and parameter.odd:
        raise node.error(f"{name} must be odd: its range has steps of 2 and cannot be logarithmic")
    step_node = entries.get("step")
    if step_node is None:
        step: float | None = (2 if parameter.odd else 1) if whole else None
    elif log:
        raise step_node.error(f"{name} has a logarithmic range, which has no step: leave one out")
    else:
        step = step_node.number(f"the step of {name}")
        if step <= 0 or (whole and not isinstance(step, int)):
            raise step_node.error(f"the step of {name} must be a positive {_noun(whole)}")
        if parameter.odd and step % 2:
            raise step_node.error(f"{name} must be odd: its range needs an even step, not {step}")
        steps = (high - low) / step
        if abs(steps - round(steps)) > 1e-6:
            raise step_node.error(
                f"{name}: steps of {step:g} from {low:g} do not end at {high:g}; "
                f"use high: {low + math.floor(steps) * step:g}"
            )
    return Range(low, high, step, log, whole)


def _noun(whole: bool) -> str:
    return "whole number" if whole else "number"


def _read_when(
    node: Located,
    family: str,
    name: str,
    parameters: Mapping[str, Parameter],
    distributions: Mapping[str, Distribution],
) -> Mapping[str, tuple[Value, ...]]:
    """Reads the condition of a parameter: values of other parameters, checked to be possible."""
    conditions: dict[str, tuple[Value, ...]] = {}
    for other, entry in node.mapping(f"the `when` of {family}.{name}").items():
        if other not in parameters:
            raise node.key_error(other, unknown(f"parameter of {family}", other, parameters))
        items = entry.value if isinstance(entry.value, list) else [entry]
        wanted = tuple(_check(item, f"{family}.{other}", parameters[other]) for item in items)
        count = distributions[other].values.count()
        if count is None or count > MOST_CHOICES:
            raise entry.error(
                f"{family}.{other} varies too finely for a condition: give choices for it"
            )
        possible = {*distributions[other].values.points(), distributions[other].otherwise}
        for value, item in zip(wanted, items, strict=True):
            if value not in possible:
                raise item.error(f"{family}.{other} is never {item.shown()} in this space")
        conditions[other] = wanted
    if not conditions:
        raise node.error(f"the `when` of {family}.{name} names no parameter")
    return conditions
