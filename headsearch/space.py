"""The search space: heads.yaml → candidates, with what each costs on a given base.

A space is written for any base. `Space.on(base)` resolves it: the control `own` becomes the base's
own kind of block, kernels and windows larger than the map become the largest that make a difference
there, points that are equal heads are one candidate, and costs are counted. The map is that of the
place where a head is attached.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from headsearch.candidate import BaseShape, Candidate, Listing
from headsearch.config import formats
from headsearch.config.yaml_file import Located, read_yaml
from headsearch.errors import UserError, unknown
from headsearch.heads import (
    DEPTH,
    FAMILIES,
    Cost,
    Family,
    Parameter,
    Value,
    head_cost,
)
from headsearch.knobs import Knobs, all_points, count_points
from headsearch.space_yaml import read_families
from headsearch.user_families import (
    UserFamily,
    read_user_families,
    without_origins,
)

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

__all__ = [
    "ATTACH_AT",
    "CONTROLS",
    "OWN",
    "BaseShape",
    "Candidate",
    "Listing",
    "ResolvedSpace",
    "Space",
    "find_space",
    "knobs_of",
    "load_space",
    "read_space",
    "ready_spaces",
]

OWN = "own"
"""The control that is the base's own kind of block; which family that is, the base says."""
CONTROLS: dict[str, Mapping[str, Parameter]] = {
    **{name: family.parameters for name, family in FAMILIES.items() if family.control},
    OWN: {"depth": DEPTH},
}
ATTACH_AT = Parameter(
    "int",
    0,
    "how many blocks before the base's last the head is attached (stages, in a base of stages)",
    "before{}",
    low=0,
    high=63,
)
"""The knob of every family but the controls that says where its head meets the base."""
ENUMERABLE = 2000
"""Spaces of more points than this are not listed; a merge or a constraint could only be found by
going through all of them."""


@dataclass(frozen=True)
class Space:
    """A search space as written, checked, for any base.

    Attributes:
        source: the file's name as shown to the user.
        families, controls: by name, how their parameters vary.
        max_params, max_gflops: what a head may have at most, as a share of the base's.
        from_elsewhere: those of the families that are not headsearch's own.
    """

    source: str
    families: Mapping[str, Knobs]
    controls: Mapping[str, Knobs]
    max_params: float | None = None
    max_gflops: float | None = None
    from_elsewhere: Mapping[str, UserFamily] = field(default_factory=dict)

    def written(self) -> dict[str, Any]:
        """The space as YAML would hold it, no default left unsaid and in a fixed order.

        Saved as YAML and loaded again it is the same space with the same hash.
        """
        limits = {"max_params": self.max_params, "max_gflops": self.max_gflops}
        return {
            "families": {
                name: {**self._origin(name), **knobs}
                for name, knobs in _written(self.families).items()
            },
            "controls": _written(self.controls),
            "constraints": {name: limit for name, limit in limits.items() if limit is not None},
        }

    def _origin(self, name: str) -> Mapping[str, str]:
        return self.from_elsewhere[name].origin if name in self.from_elsewhere else {}

    @property
    def hash(self) -> str:
        """12 hexadecimal digits that change with what the space holds.

        Comments, the order of keys and choices, spelled-out defaults and the path do not count; the
        content of a user's file does.
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


_Key: TypeAlias = tuple[str, int, tuple[tuple[str, Value], ...]]
"""What is built: family, place, parameters."""


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
        notes = []
        controls = dict(space.controls)
        if base.own_family is None and controls.pop(OWN, None) is not None:
            notes.append("the control `own` is left out: no family is built like this base")
        deepest = max((knobs["attach_at"].most() for knobs in space.families.values()), default=0)
        if int(deepest) >= len(base.stages):
            notes.append(f"heads with attach_at {deepest} are left out: {self._places()}")
        self.notes = tuple(notes)
        elsewhere = {name: user.family for name, user in space.from_elsewhere.items()}
        self._families: dict[str, Family] = {**FAMILIES, **elsewhere}
        self._knobs = {**space.families, **controls}
        self._costs: dict[_Key, tuple[Cost, str]] = {}
        self._names: dict[str, _Key] = {}
        self._controls: dict[_Key, Candidate] = {}
        for family, knobs in controls.items():
            for values, drawn in all_points(knobs):
                control = self._candidate(family, values, drawn)
                self._controls[self._key(control.block, control.parameters)] = control
        self.controls = tuple(self._controls.values())
        for name, user in space.from_elsewhere.items():
            self._try(name, user)

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
                written = self._name(family, values)
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
            fit = [entry for entry in excluded.values() if not entry[0].fault]
            smallest, reason = min(
                fit or excluded.values(), key=lambda entry: (entry[0].params_m, entry[0].name)
            )
            raise UserError(
                f"{self.space.source}: the constraints leave no candidate; "
                f"the smallest, {smallest.name}, has {reason}"
                if fit
                else f"{self.space.source}: no candidate can be built on this base; "
                f"{smallest.name}: {reason}"
            )
        return Listing(tuple(found.values()), tuple(merged.items()), tuple(excluded.values()))

    def suggest(self, trial: BaseTrial) -> Candidate:
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
        """Why a candidate cannot be had or the constraints forbid it, in a few words; else None."""
        if candidate.fault or candidate.control:
            return candidate.fault or None
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
        _, place, settled = key
        cost, fault = self._cost(key)
        known = self._parameters(family)
        parameters = {name: value for name, value in settled if name in known}
        name = self._name(family, {**parameters, "attach_at": place})
        if self._names.setdefault(name, key) != key:
            raise UserError(
                f"{self.space.source}: two different heads of {family} would both be called {name}"
            )
        return Candidate(
            name=name,
            family=family,
            parameters=parameters,
            control=family in CONTROLS,
            params_m=cost.params_m,
            gflops=cost.gflops,
            block=block,
            place=place,
            trial_params={
                "family": family,
                **{f"{family}.{name}": value for name, value in drawn.items()},
            },
            made_by=self._families[block],
            fault=fault,
        )

    def _key(self, block: str, values: Mapping[str, Value]) -> _Key:
        """What is built on this base for these values: the same key, the same head."""
        place = int(values.get("attach_at", 0))
        dim, grid = self.base.stages[min(place, len(self.base.stages) - 1)]
        own = {name: value for name, value in values.items() if name != "attach_at"}
        return block, place, tuple(self._families[block].settled(dim, grid, own).items())

    def _cost(self, key: _Key) -> tuple[Cost, str]:
        """What is paid for a head, and why it cannot be built, empty where it can."""
        if key not in self._costs:
            block, place, settled = key
            if place >= len(self.base.stages):
                self._costs[key] = Cost(math.nan, math.nan), self._places()
            elif block in self.space.from_elsewhere:
                user = self.space.from_elsewhere[block]
                self._costs[key] = user.cost(*self.base.stages[place], dict(settled))
            else:
                cost = head_cost(self._families[block], *self.base.stages[place], dict(settled))
                self._costs[key] = cost, ""
        return self._costs[key]

    def _places(self) -> str:
        return f"this base can be attached to at 0 to {len(self.base.stages) - 1}"

    def _try(self, name: str, user: UserFamily) -> None:
        """Builds the least head of a user's family. Raises UserError where that cannot be."""
        least: dict[str, Value] = {}
        for parameter, knob in self.space.families[name].items():
            least[parameter] = knob.first(least)
        _, fault = self._cost(self._key(name, {**least, "attach_at": 0}))
        if fault:
            raise UserError(f"{user.where}: {fault}")

    def _parameters(self, family: str) -> Mapping[str, Parameter]:
        return CONTROLS[family] if family in CONTROLS else knobs_of(self._families[family])

    def _name(self, family: str, values: Mapping[str, Value]) -> str:
        parts = (
            knob.name_part(knob.check(name, values[name]))
            for name, knob in self._parameters(family).items()
        )
        return "-".join((family, *filter(None, parts)))


def knobs_of(family: Family) -> Mapping[str, Parameter]:
    """All that can vary of a family in a space: how its head is built, and where it is attached."""
    return {**family.parameters, "attach_at": ATTACH_AT}


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

    A family of the user's own that the space names is EXECUTED: its file is Python.

    Raises:
        UserError: one line with file, line and what would be right, for whatever is wrong in it.
    """
    return read_space(read_yaml(path), str(path), path.parent)


def read_space(root: Located, source: str, folder: Path = Path()) -> Space:
    """The search space that a YAML file, or a Python dict of the same form, holds.

    Args:
        source: what the space is called where it is shown.
        folder: where the paths of a user's own families start from.

    Raises:
        UserError: one line with where it stands, for whatever is wrong in it.
    """
    written = root.mapping("a search space").get(formats.KEY)
    if written is not None:  # before its keys: those of a later format may be unknown here
        formats.check_format(written.plain(), formats.SPACE, written.where)
    known = (formats.KEY, "families", "controls", "constraints")
    entries = root.mapping("a search space", known)
    elsewhere = read_user_families(entries.get("families"), folder, {*FAMILIES, *CONTROLS})
    found = [family for family in FAMILIES.values() if not family.control]
    found += [user.family for user in elsewhere.values()]
    families = read_families(
        without_origins(entries.get("families"), elsewhere),
        "family",
        {family.name: knobs_of(family) for family in found},
        {name: f"{name!r} is a control: list it under `controls`" for name in CONTROLS},
    )
    # Left out, both controls are there with their defaults; `controls: []` is for none.
    everything = Located(dict.fromkeys(CONTROLS, Located(None, root.where, {})), root.where, {})
    controls = read_families(entries.get("controls", everything), "control", CONTROLS, {})
    if not families and not controls:
        raise root.error("the space is empty: name at least one family under `families`")
    limits: dict[str, float] = {}
    if "constraints" in entries and entries["constraints"].value is not None:
        shares = ("max_params", "max_gflops")
        for name, node in entries["constraints"].mapping("constraints", shares).items():
            limits[name] = node.number(name)
            if limits[name] <= 0:
                raise node.error(f"{name} is a share of the base's and must be above 0")
    return Space(source, families, controls, **limits, from_elsewhere=elsewhere)
