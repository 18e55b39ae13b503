"""The search space: heads.yaml → candidates, with what each costs on a given base.

A space is written for any base. `Space.on(base)` resolves it: the control `own` becomes the base's
own kind of block, kernels and windows larger than the base's map become the largest that make a
difference there, points that thereby coincide are one candidate, and costs are counted.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from torch import nn

from headsearch.errors import UserError, unknown
from headsearch.heads import (
    DEPTH,
    FAMILIES,
    Cost,
    Grid,
    Parameter,
    Value,
    build_head,
    head_cost,
)
from headsearch.knobs import Knobs, all_points, count_points
from headsearch.space_yaml import read_families
from headsearch.yaml_lines import Located, read_yaml

if TYPE_CHECKING:
    import optuna

OWN = "own"
"""The control that is the base's own kind of block; which family that is, the base says."""
CONTROLS: dict[str, Mapping[str, Parameter]] = {
    **{name: family.parameters for name, family in FAMILIES.items() if family.control},
    OWN: {"depth": DEPTH},
}
ENUMERABLE = 2000
"""Spaces of more points than this are not listed; a merge or a constraint could only be found by
going through all of them."""


class BaseShape(Protocol):
    """What a space needs to know of a base."""

    @property
    def dim(self) -> int: ...  # width of its tokens

    @property
    def grid(self) -> Grid: ...  # (H, W) of its token map

    @property
    def own_family(self) -> str | None: ...  # the family of its own blocks, if there is one

    @property
    def params_m(self) -> float: ...  # millions

    @property
    def gflops(self) -> float: ...  # of one image's forward


@dataclass(frozen=True)
class Candidate:
    """One point of the space on one base.

    Attributes:
        name: unique, readable, fit for a file name: "convnext-d3-k7-noshortcut".
        family: its family, or "own".
        parameters: all of its family's parameters; of "own", those that the control has.
        control: whether it is there to compare with; never pruned, excluded or recommended.
        params_m: millions of parameters.
        gflops: GFLOPs (two a multiply-add) of one image's forward.
        block: the family that is built: of "own", the base's.
        trial_params: what an Optuna trial holds for it, for `study.enqueue_trial`.
    """

    name: str
    family: str
    parameters: Mapping[str, Value] = field(hash=False)
    control: bool
    params_m: float
    gflops: float
    block: str
    trial_params: Mapping[str, Value] = field(compare=False, repr=False)

    def build(self, dim: int, grid: Grid) -> nn.Module:
        """A fresh head (B, dim, H, W) → (B, dim, H, W) with `grid` = (H, W)."""
        return build_head(self.block, dim, grid, self.parameters)


@dataclass(frozen=True)
class Listing:
    """All candidates of a space on a base.

    Attributes:
        candidates: controls first, then by family and parameters; always in the same order.
        merged: points that are the same head as a candidate of another name: (as written, the
            candidate's name).
        excluded: candidates that the constraints forbid, each with the reason.
    """

    candidates: tuple[Candidate, ...]
    merged: tuple[tuple[str, str], ...]
    excluded: tuple[tuple[Candidate, str], ...]


@dataclass(frozen=True)
class Space:
    """A search space as written, checked, for any base.

    Attributes:
        source: the file's name as shown to the user.
        families, controls: by name, how their parameters vary.
        max_params, max_gflops: what a head may have at most, as a share of the base's.
    """

    source: str
    families: Mapping[str, Knobs]
    controls: Mapping[str, Knobs]
    max_params: float | None = None
    max_gflops: float | None = None

    def written(self) -> dict[str, Any]:
        """The space as YAML would hold it, no default left unsaid and in a fixed order.

        Saved as YAML and loaded again it is the same space with the same hash.
        """
        limits = {"max_params": self.max_params, "max_gflops": self.max_gflops}
        return {
            "families": _written(self.families),
            "controls": _written(self.controls),
            "constraints": {name: limit for name, limit in limits.items() if limit is not None},
        }

    @property
    def hash(self) -> str:
        """12 hexadecimal digits that change with what the space holds.

        Comments, the order of keys and choices, spelled-out defaults and the path do not count.
        """
        text = json.dumps(self.written(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def size(self) -> int | None:
        """How many points it has, before any are merged; None where a range is dense."""
        counts = [
            count_points(knobs) for knobs in (*self.controls.values(), *self.families.values())
        ]
        return None if None in counts else sum(count for count in counts if count is not None)

    def on(self, base: BaseShape) -> ResolvedSpace:
        """The space on this base."""
        return ResolvedSpace(self, base)


def _written(families: Mapping[str, Knobs]) -> dict[str, Any]:
    return {
        family: {name: knobs[name].written() for name in sorted(knobs)}
        for family, knobs in families.items()
    }


_Key: TypeAlias = tuple[str, tuple[tuple[str, Value], ...]]  # what is built: family, parameters


class ResolvedSpace:
    """A space on a base: its candidates, listed or drawn.

    Attributes:
        space, base: what was resolved on what.
        controls: the control candidates.
        notes: what the base did to the space that a user should hear, one line each.
    """

    def __init__(self, space: Space, base: BaseShape) -> None:
        self.space = space
        self.base = base
        self.notes: tuple[str, ...] = ()
        controls = dict(space.controls)
        if base.own_family is None and controls.pop(OWN, None) is not None:
            self.notes = ("the control `own` is left out: no family is built like this base",)
        self._knobs = {**space.families, **controls}
        self._costs: dict[_Key, Cost] = {}
        self._controls: dict[_Key, Candidate] = {}
        for family, knobs in controls.items():
            for values, drawn in all_points(knobs):
                control = self._candidate(family, values, drawn)
                self._controls[self._key(control.block, control.parameters)] = control
        self.controls = tuple(self._controls.values())

    @property
    def hash(self) -> str:
        """The space's hash, the same on every base."""
        return self.space.hash

    @property
    def size(self) -> int | None:
        """How many points the space has, before any are merged; None where a range is dense."""
        return self.space.size

    def enumerate(self, limit: int) -> Listing | None:
        """All candidates, where there are at most `limit` with the controls; else None.

        Raises:
            UserError: where the constraints leave no candidate but controls.
        """
        if self.size is None or self.size > ENUMERABLE:
            return None
        found = {control.name: control for control in self.controls}
        merged: dict[str, str] = {}
        excluded: dict[str, tuple[Candidate, str]] = {}
        for family, knobs in self.space.families.items():
            for values, drawn in all_points(knobs):
                candidate = self._candidate(family, values, drawn)
                written = _name(family, values)
                if written != candidate.name:
                    merged[written] = candidate.name
                reason = self.excluded(candidate)
                if reason is not None:
                    excluded[candidate.name] = (candidate, reason)
                else:
                    found.setdefault(candidate.name, candidate)
                if len(found) > limit:
                    return None
        if self.space.families and excluded and len(found) == len(self.controls):
            smallest, reason = min(excluded.values(), key=lambda entry: entry[0].params_m)
            raise UserError(
                f"{self.space.source}: the constraints leave no candidate; "
                f"the smallest, {smallest.name}, has {reason}"
            )
        return Listing(tuple(found.values()), tuple(merged.items()), tuple(excluded.values()))

    def suggest(self, trial: optuna.Trial) -> Candidate:
        """The candidate that a trial's sampler, or what was enqueued for it, chooses.

        The family is drawn first, then its parameters under names of their own
        ("convnext.depth"), so that a sampler sees a tree (for TPE, `group=True`). The candidate may
        be one that there is already, a control too, or one that the constraints forbid
        (`excluded`): whoever asks decides what becomes of the trial.
        """
        family = trial.suggest_categorical("family", tuple(self._knobs))
        values: dict[str, Value] = {}
        drawn: dict[str, Value] = {}
        for name, knob in self._knobs[family].items():
            fixed = knob.fixed(values)
            if fixed is not None:
                values[name] = fixed
            else:
                values[name] = drawn[name] = knob.values.suggest(trial, f"{family}.{name}")
        return self._candidate(family, values, drawn)

    def excluded(self, candidate: Candidate) -> str | None:
        """Why the constraints forbid a candidate, in a few words; None where they do not."""
        if candidate.control:
            return None
        for limit, cost, whole, unit in (
            (self.space.max_params, candidate.params_m, self.base.params_m, "M parameters"),
            (self.space.max_gflops, candidate.gflops, self.base.gflops, "GFLOPs"),
        ):
            if limit is not None and cost > limit * whole:
                return f"{cost:.3g} {unit}, over {limit:g} of the base's {whole:.3g}"
        return None

    def _candidate(
        self, family: str, values: Mapping[str, Value], drawn: Mapping[str, Value]
    ) -> Candidate:
        block = self.base.own_family if family == OWN else family
        assert block is not None
        key = self._key(block, values)
        if key in self._controls:
            return self._controls[key]
        if key not in self._costs:
            self._costs[key] = head_cost(block, self.base.dim, self.base.grid, dict(key[1]))
        parameters = {name: value for name, value in key[1] if name in _parameters(family)}
        return Candidate(
            name=_name(family, parameters),
            family=family,
            parameters=parameters,
            control=family in CONTROLS,
            params_m=self._costs[key].params_m,
            gflops=self._costs[key].gflops,
            block=block,
            trial_params={
                "family": family,
                **{f"{family}.{name}": value for name, value in drawn.items()},
            },
        )

    def _key(self, block: str, values: Mapping[str, Value]) -> _Key:
        """What is built on this base for these values: the same key, the same head."""
        settled = (
            (name, knob.on(self.base.grid, knob.check(name, values.get(name, knob.default))))
            for name, knob in FAMILIES[block].parameters.items()
        )
        return block, tuple(settled)


def _parameters(family: str) -> Mapping[str, Parameter]:
    return CONTROLS[family] if family in CONTROLS else FAMILIES[family].parameters


def _name(family: str, values: Mapping[str, Value]) -> str:
    parts = (
        knob.name_part(knob.check(name, values[name])) for name, knob in _parameters(family).items()
    )
    return "-".join((family, *filter(None, parts)))


def ready_spaces() -> dict[str, Path]:
    """The spaces that come with headsearch, by file name."""
    spec = importlib.util.find_spec("headsearch.search_spaces")
    if spec is not None and spec.submodule_search_locations is not None:
        folders = [Path(folder) for folder in spec.submodule_search_locations]
    else:  # a source checkout, where the folder lies beside the package
        folders = [Path(__file__).parent.parent / "search_spaces"]
    return {path.name: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def find_space(name: str) -> Path:
    """The file that `--space` means: the path as given, else a ready-made space of that name.

    Raises:
        UserError: where there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f"{name}: a directory; --space wants a YAML file")
    ready = ready_spaces()
    for ready_name in (name, f"{name}.yaml"):
        if ready_name in ready:
            return ready[ready_name]
    raise UserError(f"{name}: no such file, and {unknown('ready-made space', name, ready)}")


def load_space(path: Path) -> Space:
    """The search space in a YAML file; `search_spaces/heads.yaml` shows and explains the form.

    Raises:
        UserError: one line with file, line and what would be right, for whatever is wrong in it.
    """
    return read_space(read_yaml(path), str(path))


def read_space(root: Located, source: str) -> Space:
    """The search space that a YAML file, or a Python dict of the same form, holds.

    Args:
        source: what the space is called where it is shown.

    Raises:
        UserError: one line with where it stands, for whatever is wrong in it.
    """
    entries = root.mapping("a search space", ("families", "controls", "constraints"))
    families = read_families(
        entries.get("families"),
        "family",
        {name: family.parameters for name, family in FAMILIES.items() if not family.control},
        {name: f"{name!r} is a control: list it under `controls`" for name in CONTROLS},
    )
    # Left out, both controls are there with their defaults; `controls: []` is for none.
    everything = Located(dict.fromkeys(CONTROLS, Located(None, root.where, {})), root.where, {})
    controls = read_families(entries.get("controls", everything), "control", CONTROLS, {})
    if not families and not controls:
        raise root.error("the space is empty: name at least one family under `families`")
    limits: dict[str, float] = {}
    if "constraints" in entries and entries["constraints"].value is not None:
        known = ("max_params", "max_gflops")
        for name, node in entries["constraints"].mapping("constraints", known).items():
            limits[name] = node.number(name)
            if limits[name] <= 0:
                raise node.error(f"{name} is a share of the base's and must be above 0")
    return Space(source, families, controls, **limits)
