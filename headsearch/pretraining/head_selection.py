"""Finds the head that `--rank` or `--head` names: by rank, by candidate name, or in a YAML file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from headsearch.config.yaml_file import located
from headsearch.errors import UserError, unknown
from headsearch.models.heads import Parameter, Value
from headsearch.models.space import (
    CONTROLS,
    ENUMERABLE,
    PARAMETERS,
    BaseShape,
    Candidate,
    Space,
    load_space,
    read_space,
    without_later,
)
from headsearch.runs.run import Run
from headsearch.runs.tables import NO_HEAD, ranked


def name_at(run: Run, rank: int) -> tuple[str, str | None]:
    """The candidate at a rank of ranking.csv, and a note if it is a doubtful choice.

    Raises:
        UserError: there is no ranking yet or no such rank, or the candidate collapsed or failed.
    """
    rows = {row.rank: row for row in ranked(run.ranking)}
    if not rows:
        raise UserError(f"{run.path} has no ranking yet: none of its rungs was scored")
    if rank not in rows:
        raise UserError(f"{run.path} has no rank {rank}: its ranks are 1 to {max(rows)}")
    row = rows[rank]
    if not row.healthy:
        reason = f" ({row.reason})" if row.reason else ""
        raise UserError(
            f"rank {rank} of {run.path}, {row.candidate}, {row.state}{reason}: choose another "
            "--rank, or name it with --head if you mean it"
        )
    if row.control:
        return row.candidate, f"{row.candidate} is a control: it brings nothing the base lacks"
    if row.state == "pruned":
        return row.candidate, f"{row.candidate} was pruned at rung {row.rungs} of the search"
    return row.candidate, None


class Head(NamedTuple):
    """The chosen head.

    Attributes:
        candidate: the candidate, on the base that it is to be attached to.
        origin: the module and function of a user's own family, as a space records them; empty for
            headsearch's families.
        notes: notes for the user, one line each.
    """

    candidate: Candidate
    origin: Mapping[str, str]
    notes: list[str]


def head_on(base: BaseShape, spec: str, run: Run | None = None) -> Head:
    """The head that `--head` names, on this base.

    Args:
        base: the base to attach the head to.
        spec: a YAML file that holds one head, or a candidate's name. It need not be a candidate of
            any run; parameters that the name leaves out have their defaults.
        run: a search whose candidates may be named too, also those of a user's own family.

    Raises:
        UserError: no such file or head, or it does not fit the base.
    """
    if Path(spec).suffix in (".yaml", ".yml"):
        space = load_space(Path(spec))
        candidate = sole_candidate(space, base)
        return Head(candidate, _origin(space, candidate.family, Path(spec).parent), [])
    check_head(spec, run)
    try:
        family, parameters = read_name(spec)
    except UserError:  # not one of headsearch's families: perhaps the run's space defines it
        head = _head_in_space_of(run, spec, base)
        if head is None:
            raise
        return head
    candidate = sole_candidate(space_of(family, parameters, f"--head {spec}"), base)
    notes = [f"{spec} is {candidate.name} on this base"] if candidate.name != spec else []
    return Head(candidate, {}, notes)


def check_head(spec: str, run: Run | None = None) -> None:
    """Raises UserError if `--head` names nothing that could be a head on any base."""
    if Path(spec).suffix in (".yaml", ".yml"):
        load_space(Path(spec))
    elif spec != NO_HEAD and (run is None or spec not in set(run.ranking["candidate"])):
        try:
            read_name(spec)
        except UserError:
            if run is None or run.ranking.empty or spec.split("-")[0] in PARAMETERS:
                raise
            raise unknown("head", spec, run.ranking["candidate"]) from None


def sole_candidate(space: Space, base: BaseShape) -> Candidate:
    """The head of a space that holds exactly one.

    Raises:
        UserError: the space holds several heads, or its head does not fit the base.
    """
    resolved = space.on(base)
    listing = resolved.enumerate(ENUMERABLE)
    count = len(listing.candidates) if listing is not None else ENUMERABLE + 1
    if listing is None or count > 1:
        raise UserError(
            f"{space.source} holds {count if listing is not None else 'many'} heads, but must hold "
            "one; `headsearch export` writes such a file (a space without `controls: {}` has all "
            "controls)"
        )
    if count == 0:
        reasons = [reason for _, reason in listing.excluded]
        raise UserError(f"{space.source}: {' '.join((*reasons, *resolved.notes))}")
    return listing.candidates[0]


def space_of(family: str, parameters: Mapping[str, Value], source: str) -> Space:
    """The search space that holds one head.

    Args:
        family: its family.
        parameters: its parameters; those left out have their defaults.
        source: what error messages call the space.
    """
    part = "controls" if family in CONTROLS else "families"
    written = {"families": {}, "controls": {}, part: {family: dict(parameters)}}
    return read_space(located(written, source), source)


def written_head(candidate: Candidate, origin: Mapping[str, str]) -> dict[str, Any]:
    """A head as YAML data: a search space with this head and no other."""
    attached = {"attach_at": candidate.feature_index} if candidate.feature_index else {}
    part = "controls" if candidate.control else "families"
    parameters = candidate.parameters if origin else without_later(candidate.parameters)
    return {
        "families": {}, "controls": {},
        part: {candidate.family: {**origin, **parameters, **attached}},
    }  # fmt: skip


def read_head(written: Mapping[str, Any], base: BaseShape, source: str) -> Head:
    """The head that `written_head` wrote, on this base; raises UserError if it isn't one."""
    space = read_space(located(written, source), source)
    candidate = sole_candidate(space, base)
    return Head(candidate, _origin(space, candidate.family, Path()), [])


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


def _head_in_space_of(run: Run | None, name: str, base: BaseShape) -> Head | None:
    """The head of this name in the run's own space, if that space can be listed."""
    content = run.config.get("space_content") if run is not None else None
    if run is None or content is None:
        return None
    folder = Path(str(run.config.get("space", ""))).parent
    space = read_space(located(content, "space_content"), str(run.path), folder)
    listing = space.on(base).enumerate(ENUMERABLE)
    # A constraint of the space may exclude a head from the search, but not from being named here.
    listed = [*listing.candidates, *(head for head, _ in listing.excluded)] if listing else []
    match = next((candidate for candidate in listed if candidate.name == name), None)
    return Head(match, _origin(space, match.family, folder), []) if match is not None else None


def _origin(space: Space, family: str, folder: Path) -> Mapping[str, str]:
    """The module and function of a user's own family, with an absolute path if it is a file."""
    user = space.from_elsewhere.get(family)
    origin = dict(user.origin) if user is not None else {}
    if origin.get("module", "").rpartition(":")[0].endswith(".py"):
        origin["module"] = str((folder / origin["module"]).absolute())
    return origin


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
