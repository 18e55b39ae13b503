"""`ResolvedSpace`: a search space on one base; enumerates or samples candidates with their costs.

Resolving does four things. The control `own` becomes the base's own kind of block. Kernels and
windows larger than the map become the largest that make a difference on it, where the map is the
one to which the head is attached. Heads of a causal base become causal, or are left out. Points
that are the same head become one candidate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from headsearch.errors import UserError
from headsearch.models.heads import CAUSAL, FAMILIES, Cost, Family, Parameter, Value, head_cost
from headsearch.models.space.candidate import BaseShape, Candidate, Listing
from headsearch.models.space.distributions import all_points
from headsearch.models.space.parameters import CONTROLS, OWN, parameters_of, without_later
from headsearch.models.space.plugins import UserFamily

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

    from headsearch.models.space.space import Space

ENUMERABLE = 2000
"""The most points of a space that is enumerated. Which points are merged or excluded is only known
after going through all of them, which takes too long for larger spaces."""


_Key: TypeAlias = tuple[str, int, tuple[tuple[str, Value], ...]]
"""Identifies a head on this base: the name of its family, its feature index, its parameters."""


class ResolvedSpace:
    """A search space on one base: enumerates or samples its candidates.

    Attributes:
        space: the search space.
        base: the base.
        controls: the control candidates.
        notes: parts of the space that this base does not support, one line each.
    """

    def __init__(self, space: Space, base: BaseShape) -> None:
        self.space = space
        self.base = base
        notes = []
        controls = dict(space.controls)
        if base.own_family is None and controls.pop(OWN, None) is not None:
            notes.append("the control `own` is left out: no family is built like this base")
        deepest = max((family["attach_at"].most() for family in space.families.values()), default=0)
        if int(deepest) >= len(base.stages):
            notes.append(f"heads with attach_at {deepest} are left out: {self._places()}")
        self.notes = tuple(notes)
        elsewhere = {name: user.family for name, user in space.from_elsewhere.items()}
        self._families: dict[str, Family] = {**FAMILIES, **elsewhere}
        self._distributions = {**space.families, **controls}
        self._costs: dict[_Key, tuple[Cost, str]] = {}
        self._names: dict[str, _Key] = {}
        self._controls: dict[_Key, Candidate] = {}
        for family, distributions in controls.items():
            for values, drawn in all_points(distributions):
                control = self._candidate(family, values, drawn)
                self._controls[self._key(control.block, control.parameters)] = control
        self.controls = tuple(self._controls.values())
        for name, user in space.from_elsewhere.items():
            self._try(name, user)

    @property
    def hash(self) -> str:
        """The hash of the space; it does not depend on the base."""
        return self.space.hash

    @property
    def size(self) -> int | None:
        """The number of points before equal heads are merged; None if a range is dense."""
        return self.space.size

    def enumerate(self, limit: int) -> Listing | None:
        """All candidates, if there are at most `limit` including controls; else None.

        Raises:
            UserError: the constraints exclude every candidate except controls.
        """
        if self.size is None or self.size > ENUMERABLE:
            return None
        found = {control.name: control for control in self.controls}
        merged: dict[str, str] = {}
        excluded: dict[str, tuple[Candidate, str]] = {}
        for family, distributions in self.space.families.items():
            for values, drawn in all_points(distributions):
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
        """The candidate that an Optuna trial samples, or that was enqueued for it.

        The family is suggested first, then its parameters under names with the family
        ("convnext.depth"). The sampler sees a tree-structured space (for TPE, `group=True`). The
        candidate may equal an earlier one or a control, or violate the constraints (`excluded`);
        the caller decides how to finish such a trial.
        """
        family = trial.suggest_categorical("family", tuple(self._distributions))
        values: dict[str, Value] = {}
        drawn: dict[str, Value] = {}
        for name, distribution in self._distributions[family].items():
            fixed = distribution.fixed(values)
            if fixed is not None:
                values[name] = fixed
            else:
                values[name] = drawn[name] = distribution.values.suggest(trial, f"{family}.{name}")
        return self._candidate(family, values, drawn)

    def excluded(self, candidate: Candidate) -> str | None:
        """The reason why a candidate cannot be built or violates the constraints; None if neither.

        Controls are exempt from the constraints.
        """
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
        """The candidate for these values of all parameters; the control, if it is the same head.

        Args:
            family: the name of the family, or "own".
            values: the values of all parameters.
            drawn: those of `values` that were not fixed, which an Optuna trial contains.
        """
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
        if family == OWN:
            parameters = without_later(parameters)
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
        """The key of the head that is built on this base for these values; equal heads share it."""
        feature_index = int(values.get("attach_at", 0))
        # An index beyond the base's maps is reported by `_cost`; any map will do until then.
        dim, grid = self.base.stages[min(feature_index, len(self.base.stages) - 1)]
        own = {name: value for name, value in values.items() if name != "attach_at"}
        known = self._families[block].parameters
        if self.base.causal and "causal" in known:
            own["causal"] = True
        elif "causal" not in known and own.get("causal") is CAUSAL.default:
            del own["causal"]  # of the control `own`, on a base whose family has no causal form
        return block, feature_index, tuple(self._families[block].settled(dim, grid, own).items())

    def _cost(self, key: _Key) -> tuple[Cost, str]:
        """The cost of a head, and the reason why it cannot be built; empty if it can."""
        if key not in self._costs:
            block, feature_index, settled = key
            if feature_index >= len(self.base.stages):
                self._costs[key] = Cost(math.nan, math.nan), self._places()
            elif self.base.causal and not self._may_be_causal(block):
                reason = f"{block} has no causal form, and this base is causal"
                self._costs[key] = Cost(math.nan, math.nan), reason
            elif block in self.space.from_elsewhere:
                user = self.space.from_elsewhere[block]
                self._costs[key] = user.cost(*self.base.stages[feature_index], dict(settled))
            else:
                cost = head_cost(
                    self._families[block], *self.base.stages[feature_index], dict(settled)
                )
                self._costs[key] = cost, ""
        return self._costs[key]

    def _may_be_causal(self, block: str) -> bool:
        family = self._families[block]
        return family.control or "causal" in family.parameters

    def _places(self) -> str:
        return f"this base can be attached to at 0 to {len(self.base.stages) - 1}"

    def _try(self, name: str, user: UserFamily) -> None:
        """Builds the smallest head of a user's family; raises UserError if that fails.

        Errors in the user's code thus show before a run rather than in the middle of it.
        """
        smallest: dict[str, Value] = {}
        for parameter, distribution in self.space.families[name].items():
            smallest[parameter] = distribution.first(smallest)
        _, fault = self._cost(self._key(name, {**smallest, "attach_at": 0}))
        if fault:
            raise UserError(f"{user.where}: {fault}")

    def _parameters(self, family: str) -> Mapping[str, Parameter]:
        if family != OWN:
            known = self._families[family]
            return known.parameters if known.control else parameters_of(known)
        assert self.base.own_family is not None
        of_block = self._families[self.base.own_family].parameters
        return {name: known for name, known in CONTROLS[OWN].items() if name in of_block}

    def _name(self, family: str, values: Mapping[str, Value]) -> str:
        """The name of the candidate with these values: the family and the labels of parameters."""
        parts = (
            parameter.name_part(parameter.check(name, values[name]))
            for name, parameter in self._parameters(family).items()
        )
        return "-".join((family, *filter(None, parts)))
