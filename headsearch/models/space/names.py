"""Heads by their names: the parameters that a name stands for, and a head as a space of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from headsearch.config import formats
from headsearch.errors import UserError, unknown
from headsearch.models.heads import Parameter, Value
from headsearch.models.space.parameters import CONTROLS, PARAMETERS, without_later


def one_head(
    family: str,
    parameters: Mapping[str, Value],
    *,
    attach_at: int = 0,
    control: bool = False,
    origin: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A head as YAML data: a search space with this head and no other.

    Args:
        family: its family.
        parameters: its parameters.
        attach_at: which map of the base it takes, counted from the last.
        control: whether it is a control.
        origin: the module and function of a user's own family.
    """
    attached = {"attach_at": attach_at} if attach_at else {}
    part = "controls" if control else "families"
    return {
        "families": {},
        "controls": {},
        part: {family: {**(origin or {}), **parameters, **attached}},
    }


def space_text(written: Mapping[str, Any], *comments: str) -> str:
    """A search space as the text of a YAML file, below lines of comment."""
    lines = "".join(f"# {comment}\n" for comment in comments)
    return lines + yaml.safe_dump({formats.KEY: formats.SPACE, **written}, sort_keys=False)


def named_head(name: str) -> dict[str, Any]:
    """The head that a name stands for, as YAML data: what the name leaves out has its default.

    Raises:
        UserError: as `read_name`.
    """
    family, shown = read_name(name)
    values = {key: parameter.default for key, parameter in PARAMETERS[family].items()} | shown
    attach_at = values.pop("attach_at", 0)
    return one_head(
        family, without_later(values), attach_at=int(attach_at), control=family in CONTROLS
    )


def read_name(name: str) -> tuple[str, dict[str, Value]]:
    """Parses a candidate's name into its family and the parameters that the name shows.

    Raises:
        UserError: no such family, a part that belongs to none of its parameters, or a value out of
            bounds.
    """
    family = name.split("-")[0]
    if family not in PARAMETERS:
        raise unknown("head", name, map(default_name, PARAMETERS))
    values = _parse_parts(family, name.removeprefix(family), list(PARAMETERS[family].items()))
    if values is None:
        labels = ", ".join(p.label.replace("{}", "…") for p in PARAMETERS[family].values())
        raise UserError(
            f"unknown head {name!r}: after {family!r} a name has parts like {labels or 'nothing'}, "
            f"in this order; by default it is {default_name(family)!r}"
        )
    return family, values


def default_name(family: str) -> str:
    """The name of the head of a family whose parameters all have their defaults."""
    parts = (p.name_part(p.default) for p in PARAMETERS[family].values())
    return "-".join((family, *filter(None, parts)))


def _parse_parts(
    family: str, rest: str, parameters: Sequence[tuple[str, Parameter]]
) -> dict[str, Value] | None:
    """Parses the parts of a name after its family; None if some part fits no parameter.

    A name shows some of the parameters, in their order. Two labels may begin alike, so a match that
    leaves an unreadable rest is given up, and the next parameter is tried.

    Args:
        family: the family, for error messages.
        rest: the part of the name that is still to be parsed.
        parameters: the parameters that it may show.
    """
    if not rest or not parameters:
        return None if rest else {}
    (name, parameter), *others = parameters
    match = re.match(f"-{_pattern(parameter)}(?=-|$)", rest)
    if match is not None:
        values = _parse_parts(family, rest[match.end() :], others)
        if values is not None:
            return {name: parameter.check(f"{family}.{name}", _value(parameter, match)), **values}
    return _parse_parts(family, rest, others)


def _pattern(parameter: Parameter) -> str:
    """The regular expression of a parameter's part of a name; its group is the value."""
    number = r"\d+" if parameter.kind == "int" else r"[\d.]+(?:e-?\d+)?"
    text = "|".join(map(re.escape, parameter.choices)) if parameter.kind == "choice" else number
    return "".join(f"({text})" if part == "{}" else re.escape(part) for part in
                   re.split(r"(\{\})", parameter.label))  # fmt: skip


def _value(parameter: Parameter, match: re.Match[str]) -> Value:
    """The value that a part of a name gives to its parameter."""
    if parameter.kind == "bool":  # a name shows a switch only where it is not at its default
        return not parameter.default
    if parameter.kind == "choice":
        return match[1]
    try:
        return int(match[1]) if parameter.kind == "int" else float(match[1])
    except ValueError:
        raise UserError(f"{match.string!r}: {match[1]!r} is no number") from None
