"""Finds the head that `--rank` or `--head` names: by rank, by candidate name, or in a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from headsearch.config.yaml_file import located
from headsearch.errors import UserError, unknown
from headsearch.models.heads import Value
from headsearch.models.space import (
    CONTROLS,
    ENUMERABLE,
    PARAMETERS,
    BaseShape,
    Candidate,
    Space,
    load_space,
    one_head,
    read_name,
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
    parameters = candidate.parameters if origin else without_later(candidate.parameters)
    return one_head(
        candidate.family, parameters, attach_at=candidate.feature_index, control=candidate.control,
        origin=origin,
    )  # fmt: skip


def read_head(written: Mapping[str, Any], base: BaseShape, source: str) -> Head:
    """The head that `written_head` wrote, on this base; raises UserError if it isn't one."""
    space = read_space(located(written, source), source)
    candidate = sole_candidate(space, base)
    return Head(candidate, _origin(space, candidate.family, Path()), [])


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
