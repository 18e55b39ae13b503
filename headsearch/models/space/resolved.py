"""A search space resolved on one base: its candidates, listed or drawn, with what each costs there.

The control `own` becomes the base's own kind of block, kernels and windows larger than the map
become the largest that make a difference there, and points that are equal heads are one candidate.
The map is that of the place where a head is attached.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from headsearch.errors import UserError
from headsearch.models.heads import FAMILIES, Cost, Family, Parameter, Value, head_cost
from headsearch.models.space.candidate import BaseShape, Candidate, Listing
from headsearch.models.space.distributions import all_points
from headsearch.models.space.parameters import CONTROLS, OWN, knobs_of
from headsearch.models.space.plugins import UserFamily

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

    from headsearch.models.space.space import Space

ENUMERABLE = 2000
"""Spaces of more points than this are not listed; a merge or a constraint could only be found by
going through all of them."""


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
        _, feature_index, settled = key
        cost, fault = self._cost(key)
        known = self._parameters(family)
        parameters = {name: value for name, value in settled if name in known}
        name = self._name(family, {**parameters, "attach_at": feature_index})
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
            feature_index=feature_index,
            trial_params={
                "family": family,
                **{f"{family}.{name}": value for name, value in drawn.items()},
            },
            made_by=self._families[block],
            fault=fault,
        )

    def _key(self, block: str, values: Mapping[str, Value]) -> _Key:
        """What is built on this base for these values: the same key, the same head."""
        feature_index = int(values.get("attach_at", 0))
        dim, grid = self.base.stages[min(feature_index, len(self.base.stages) - 1)]
        own = {name: value for name, value in values.items() if name != "attach_at"}
        return block, feature_index, tuple(self._families[block].settled(dim, grid, own).items())

    def _cost(self, key: _Key) -> tuple[Cost, str]:
        """What is paid for a head, and why it cannot be built, empty where it can."""
        if key not in self._costs:
            block, feature_index, settled = key
            if feature_index >= len(self.base.stages):
                self._costs[key] = Cost(math.nan, math.nan), self._places()
            elif block in self.space.from_elsewhere:
                user = self.space.from_elsewhere[block]
                self._costs[key] = user.cost(*self.base.stages[feature_index], dict(settled))
            else:
                cost = head_cost(
                    self._families[block], *self.base.stages[feature_index], dict(settled)
                )
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
