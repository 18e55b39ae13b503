"""Which head `--rank` and `--head` mean: a row of a ranking, a candidate's name, or a YAML file."""

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
)
from headsearch.runs.run import Run
from headsearch.runs.tables import NO_HEAD, ranked


def name_at(run: Run, rank: int) -> tuple[str, str | None]:
    """The candidate at a rank of ranking.csv, and what there is to say of taking it.

    Raises:
        UserError: no ranking yet, no such rank, or what stands there collapsed or failed.
    """
    rows = {row.rank: row for row in ranked(run.ranking)}
    if not rows:
        raise UserError(f"{run.path} has no ranking yet: no rung of it was scored")
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
    """The head that was chosen.

    Attributes:
        candidate: on the base.
        origin: where its family is from if it is not headsearch's own, as a space records that.
        notes: what was decided, a line each.
    """

    candidate: Candidate
    origin: Mapping[str, str]
    notes: list[str]


def head_on(base: BaseShape, spec: str, run: Run | None = None) -> Head:
    """The head that `--head` means, on this base.

    Args:
        base: what the head is to be attached to.
        spec: a YAML file that holds one head, or a candidate's name, whether or not it was in any
            run; parameters that the name leaves out are at their defaults.
        run: whose heads a name may mean.

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
    except UserError:  # a kind of head that this run alone knows
        found = _of_run(spec, base, run)
        if found is None:
            raise
        return found
    candidate = sole_candidate(space_of(family, parameters, f"--head {spec}"), base)
    notes = [f"{spec} is {candidate.name} on this base"] if candidate.name != spec else []
    return Head(candidate, {}, notes)


def check_head(spec: str, run: Run | None = None) -> None:
    """Raises UserError for what `--head` cannot mean on any base."""
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
    """The one head of a space that holds one.

    Raises:
        UserError: it holds several, or the one does not fit the base.
    """
    resolved = space.on(base)
    listing = resolved.enumerate(ENUMERABLE)
    count = len(listing.candidates) if listing is not None else ENUMERABLE + 1
    if listing is None or count > 1:
        raise UserError(
            f"{space.source} holds {count if listing is not None else 'many'} heads, and one is "
            "wanted; `headsearch export` writes such a file (a space without `controls: {}` has "
            "all controls)"
        )
    if count == 0:
        faults = [reason for _, reason in listing.excluded]
        raise UserError(f"{space.source}: {' '.join((*faults, *resolved.notes))}")
    return listing.candidates[0]


def space_of(family: str, parameters: Mapping[str, Value], source: str) -> Space:
    """The space that holds one head."""
    part = "controls" if family in CONTROLS else "families"
    written = {"families": {}, "controls": {}, part: {family: dict(parameters)}}
    return read_space(located(written, source), source)


def written_head(candidate: Candidate, origin: Mapping[str, str]) -> dict[str, Any]:
    """A head as YAML holds it: a space with this head and nothing else."""
    attached = {"attach_at": candidate.feature_index} if candidate.feature_index else {}
    part = "controls" if candidate.control else "families"
    return {
        "families": {}, "controls": {},
        part: {candidate.family: {**origin, **candidate.parameters, **attached}},
    }  # fmt: skip


def read_head(written: Mapping[str, Any], base: BaseShape, source: str) -> Head:
    """The head that `written_head` wrote, on this base; raises UserError where it is none."""
    space = read_space(located(written, source), source)
    candidate = sole_candidate(space, base)
    return Head(candidate, _origin(space, candidate.family, Path()), [])


def read_name(name: str) -> tuple[str, dict[str, Value]]:
    """A candidate's name taken apart: its family, and the parameters that the name shows.

    Raises:
        UserError: no such family, a part that is none of its parameters', or a value out of bounds.
    """
    family = name.split("-")[0]
    if family not in PARAMETERS:
        raise unknown("head", name, map(default_name, PARAMETERS))
    found = _assign(family, name.removeprefix(family), list(PARAMETERS[family].items()))
    if found is None:
        labels = ", ".join(knob.label.replace("{}", "…") for knob in PARAMETERS[family].values())
        raise UserError(
            f"unknown head {name!r}: after {family!r} a name has parts like {labels or 'nothing'}, "
            f"in this order; by default it is {default_name(family)!r}"
        )
    return family, found


def _of_run(name: str, base: BaseShape, run: Run | None) -> Head | None:
    """The head of this name in the run's own space, where that can be listed."""
    content = run.config.get("space_content") if run is not None else None
    if run is None or content is None:
        return None
    folder = Path(str(run.config.get("space", ""))).parent
    space = read_space(located(content, "space_content"), str(run.path), folder)
    listing = space.on(base).enumerate(ENUMERABLE)
    every = [*listing.candidates, *(found for found, _ in listing.excluded)] if listing else []
    found = next((candidate for candidate in every if candidate.name == name), None)
    return Head(found, _origin(space, found.family, folder), []) if found is not None else None


def _origin(space: Space, family: str, folder: Path) -> Mapping[str, str]:
    """Where a family is from, its file by a path that means the same from everywhere."""
    user = space.from_elsewhere.get(family)
    origin = dict(user.origin) if user is not None else {}
    if origin.get("module", "").rpartition(":")[0].endswith(".py"):
        origin["module"] = str((folder / origin["module"]).absolute())
    return origin


def default_name(family: str) -> str:
    """The name of a family's head whose parameters are all at their defaults."""
    parts = (knob.name_part(knob.default) for knob in PARAMETERS[family].values())
    return "-".join((family, *filter(None, parts)))


def _assign(
    family: str, rest: str, knobs: Sequence[tuple[str, Parameter]]
) -> dict[str, Value] | None:
    """Which knobs the rest of a name shows, and with what value; they are in the same order."""
    if not rest or not knobs:
        return None if rest else {}
    (name, knob), *others = knobs
    shown = re.match(f"-{_pattern(knob)}(?=-|$)", rest)
    if shown is not None:
        found = _assign(family, rest[shown.end() :], others)
        if found is not None:
            return {name: knob.check(f"{family}.{name}", _value(knob, shown)), **found}
    return _assign(family, rest, others)


def _pattern(knob: Parameter) -> str:
    """What a knob's part of a name looks like."""
    number = r"\d+" if knob.kind == "int" else r"[\d.]+(?:e-?\d+)?"
    text = "|".join(map(re.escape, knob.choices)) if knob.kind == "choice" else number
    return "".join(f"({text})" if part == "{}" else re.escape(part) for part in
                   re.split(r"(\{\})", knob.label))  # fmt: skip


def _value(knob: Parameter, shown: re.Match[str]) -> Value:
    if knob.kind == "bool":
        return not knob.default
    if knob.kind == "choice":
        return shown[1]
    try:
        return int(shown[1]) if knob.kind == "int" else float(shown[1])
    except ValueError:
        raise UserError(f"{shown.string!r}: {shown[1]!r} is no number") from None
